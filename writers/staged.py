"""Outputs in a store whose unfinished files lie on a disk: made there as any file is, then sent.

The folder is one of the output's own in the one that was asked for, named by a digest of its URL,
so that whoever holds the output's lock may clear it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePath

from anamnesis import owned
from anamnesis.errors import SecurityError, UsageError
from anamnesis.limits import MiB
from anamnesis.writers.base import OutFile, WriterModule
from anamnesis.writers.part import PartFile, free_bytes, part_path, remove_parts
from anamnesis.writers.stores import Record, Store, Stored, located

STAGED_RUN = "staged00"  # an upload that no run goes on with


class Staged:
    """Where the unfinished files of the output at `out` lie, below the folder `staging`."""

    def __init__(self, staging: str, out: PurePath, store: Store) -> None:
        self._store = store
        digest = hashlib.sha256(str(out).encode("utf-8", "surrogateescape")).hexdigest()
        self._folder = Path(staging).absolute() / f".anamnesis-{digest[:16]}"

    def part(self, final: PurePath, run: str) -> PurePath:
        """A name for an unfinished file."""
        return part_path(self._folder / final.name)

    def create(self, out: OutFile, part: PurePath, *, overwrite: bool) -> StagedFile:
        """Begin a file."""
        return StagedFile(self._store, out, Path(part), overwrite)

    def found(self, part: PurePath) -> list[bytes]:
        """Nothing: an unfinished file ends with its run."""
        return []

    def check_space(self, files: Sequence[OutFile]) -> list[str]:
        """Make the folder, and clear what a run has left in it that was killed.

        OSError (ENOSPC) unless there is room for the largest file.
        """
        if not self._folder.parent.is_dir():
            raise UsageError(f"run.staging: {self._folder.parent}: found no such folder")
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        status = os.lstat(self._folder)
        if not self._folder.is_dir() or self._folder.is_symlink() or status.st_uid != os.geteuid():
            raise SecurityError(f"{self._folder}: is not this user's own folder")
        remove_parts(self._folder)
        # At a time there is one file at least, and when it is packed both of its forms.
        need = max((file.nbytes + file.packed_bytes for file in files), default=0)
        free = free_bytes(self._folder)
        if free is not None and need > free:
            self.close()
            raise OSError(
                errno.ENOSPC,
                f"the largest file of the output needs {need:,} bytes there before it is sent, "
                f"{free:,} are free",
                f"run.staging: {self._folder.parent}",
            )
        return [] if free is not None else [str(self._folder.parent)]

    def close(self) -> None:
        """Remove the folder; what is in it is another's."""
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)


class StagedFile:
    """An output file that is made on a disk and sent whole."""

    def __init__(self, store: Store, out: OutFile, part: Path, overwrite: bool) -> None:
        self._store, self._out, self._overwrite = store, out, overwrite
        self._stopped = False
        self._whole = part_path(part.with_name(PurePath(out.path).name))
        self._local = PartFile(replace(out, path=str(self._whole)), part=part)

    def receive(self, stored: object) -> None:
        """Nothing: what tasks write is in the file."""

    def commit(self, module: WriterModule, record: Record | None = None) -> None:
        """Sync and check it, send it, `record` it and give it its name in the store."""
        try:
            self._local.commit(module)
            self._send(module, record)
        finally:
            self.discard()

    def stop(self) -> None:
        """Let a commit in another thread fail soon."""
        self._stopped = True
        self._local.stop()

    def discard(self) -> None:
        """Remove what was written; a second call does nothing."""
        self._local.discard()
        self._whole.unlink(missing_ok=True)

    def _send(self, module: WriterModule, record: Record | None) -> None:
        final = located(self._out.path)
        part = self._store.part(final, STAGED_RUN)
        upload = self._store.create(self._out, part, overwrite=self._overwrite)
        try:
            upload.receive(self._sent(part))
        except BaseException:
            upload.discard()
            raise
        upload.commit(module, record)

    def _sent(self, part: PurePath) -> Stored:
        """Send the file as the parts of an upload; where they are."""
        at = 0
        with (
            closing(self._store.open_pack(part)) as sink,
            open(owned.open_finished(self._whole), "rb", buffering=0) as file,
        ):
            while data := file.read(MiB):
                if self._stopped:
                    raise InterruptedError(f"{self._out.path}: the run was stopped")
                sink.write(data, at)
                at += len(data)
            sink.end(at)
            return sink.stored()


__all__ = ["Staged"]
