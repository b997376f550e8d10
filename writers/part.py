"""Output files that are complete under their final name, or absent.

A file is written as `.NAME.TOKEN.part` beside its final place, reserved at full size, synced,
reopened and checked, and only then renamed; the folder is synced after the rename. A failed
sync is never repeated: the kernel may have dropped the pages (Rebello et al., USENIX ATC 2020).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path, PurePath

from anamnesis import owned
from anamnesis.errors import UsageError
from anamnesis.owned import sync_folder
from anamnesis.writers.base import OutFile, WriterModule, write_all
from anamnesis.writers.stores import store_of

_PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)


class PartFile:
    """One output file while it is written."""

    def __init__(self, out: OutFile, *, overwrite: bool = False, part: Path | None = None) -> None:
        """Create the file at `part`, reserve its space and write the bytes known beforehand."""
        self.out = out
        self.final = Path(out.path)
        self._overwrite = overwrite
        self._stopped = False
        check_final(self.final, overwrite)
        self.part = part or part_path(self.final)
        self._fd = owned.create(self.part)
        try:
            # Blocks are not allocated here: on tmpfs that clears every page by one thread, and
            # the writes that follow do it in parallel.
            os.ftruncate(self._fd, out.nbytes)
            for offset, data in out.fixed:
                write_all(self._fd, data, offset)
        except BaseException:
            self.discard()
            raise

    def commit(self, module: WriterModule, record: Callable[[], None] | None = None) -> None:
        """Sync, check, `record` and rename.

        What is recorded before the rename may name a file that is not there; what were recorded
        after it could miss one that is.

        On any error the final name is untouched; but for one in the sync of the folder, after
        which the final name stands for the complete file.
        """
        try:
            owned.sync(self._fd)
            if self.out.packer:
                self._pack()
            self._close()
            module.check(self.part, self.out)
            check_final(self.final, self._overwrite)
            if record is not None:
                record()
            self.part.rename(self.final)
            owned.settle(self.part)
            sync_folder(self.final.parent)
        except BaseException:
            self.discard()
            raise

    def receive(self, stored: object) -> None:
        """Nothing: what tasks write is in the file."""

    def stop(self) -> None:
        """Let a commit that is packing, in another thread, fail soon."""
        self._stopped = True

    def _pack(self) -> None:
        """Make the packed file, beside the one it is made from, and go on with that."""
        pack = import_module(f"anamnesis.writers.{self.out.packer}").pack
        plain, source = self.part, self._fd
        self.part, self._fd = part_path(self.final), -1
        try:
            self._fd = owned.create(self.part)
            pack(source, self._fd, self.out, lambda: self._stopped)
            owned.sync(self._fd)
        finally:
            os.close(source)
            plain.unlink()
            owned.settle(plain)

    def discard(self) -> None:
        """Remove what was written; a second call does nothing."""
        try:
            self._close()
        finally:
            with contextlib.suppress(FileNotFoundError):
                self.part.unlink()
            owned.settle(self.part)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # a close that fails has closed all the same
        if fd >= 0:
            os.close(fd)


def part_path(final: Path) -> Path:
    """A name for the unfinished file beside `final`, which no other run takes."""
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")


def check_final(final: PurePath, overwrite: bool) -> None:
    """UsageError when `final` is there and may not be replaced."""
    if not store_of(final).exists(final):
        return
    if not overwrite:
        raise UsageError(
            f"{final}: exists already; pass --overwrite (output.overwrite) to replace it"
        )
    if os.path.isdir(final) and not os.path.islink(final):
        raise UsageError(f"{final}: is a folder; an output file cannot replace it")


def is_part(name: str) -> bool:
    """Whether `name` is that of an unfinished file, of whatever run."""
    return _PART.fullmatch(name) is not None


def final_name(name: str) -> str:
    """The name that an unfinished file of this name is to have; "" for other names."""
    match = _PART.fullmatch(name)
    return match[1] if match else ""


def remove_leftovers(finals: Iterable[Path]) -> None:
    """Remove the unfinished files of a run that was killed; the caller holds the output's lock."""
    names: dict[Path, set[str]] = {}
    for final in finals:
        names.setdefault(final.parent, set()).add(final.name)
    for folder, wanted in names.items():
        with os.scandir(folder) as entries:
            found = [e.name for e in entries if (m := _PART.fullmatch(e.name)) and m[1] in wanted]
        for name in found:
            (folder / name).unlink(missing_ok=True)


def check_space(files: Sequence[OutFile]) -> list[Path]:
    """OSError (ENOSPC) unless the file systems have room for all of `files` together.

    A file that is packed needs room twice while it is; they are packed one by one. The answer are
    the folders whose file systems do not say how much room they have.
    """
    need: dict[Path, int] = {}
    twice: dict[Path, int] = {}
    for file in files:
        folder = Path(file.path).parent
        need[folder] = need.get(folder, 0) + file.nbytes
        twice[folder] = max(twice.get(folder, 0), file.packed_bytes)
    for folder, nbytes in twice.items():
        need[folder] += nbytes
    silent = []
    for folder, nbytes in need.items():
        free = free_bytes(folder)
        if free is None:
            silent.append(folder)
        elif nbytes > free:
            raise OSError(
                errno.ENOSPC,
                f"the output needs {nbytes:,} bytes, {free:,} are free in its folder",
                str(folder),
            )
    return silent


def remove_parts(folder: Path) -> None:
    """Remove every unfinished file in an output's own folder; the caller holds its lock."""
    for name in os.listdir(folder) if folder.is_dir() else ():
        if is_part(name):
            (folder / name).unlink(missing_ok=True)


def free_bytes(folder: Path) -> int | None:
    """The room in a folder, or None where its file system does not say (all counts are zero)."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def link_again(path: Path, name: Path) -> bool:
    """Give a file of this run another name; False where the file system has no hard links."""
    part = part_path(name)
    try:
        os.link(path, part)
    except OSError:
        return False
    try:
        part.rename(name)
    finally:
        part.unlink(missing_ok=True)  # rename leaves it where both are one file already
    sync_folder(name.parent)
    return True


def write_small(path: Path, data: bytes) -> None:
    """Write a small file whole: `.part`, sync, rename, sync of the folder."""
    write_stream(path, [data])


def write_stream(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file whole from its pieces in order, which may use their memory again."""
    part = part_path(path)
    fd = owned.create(part)
    try:
        try:
            at = 0
            for piece in pieces:
                write_all(fd, piece, at)
                at += len(piece)
            owned.sync(fd)
        finally:
            os.close(fd)
        part.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    finally:
        owned.settle(part)
    sync_folder(path.parent)
