"""Output files that are complete under their final name, or absent.

A file is written as `.NAME.TOKEN.part` beside its final place, reserved at full size, synced,
reopened and checked, and only then renamed; the folder is synced after the rename. A failed
sync is never repeated: the kernel may have dropped the pages (Rebello et al., USENIX ATC 2020).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from anamnesis.errors import UsageError
from anamnesis.writers.base import OutFile, WriterModule, write_all


class PartFile:
    """One output file while it is written."""

    def __init__(self, out: OutFile, *, overwrite: bool = False) -> None:
        """Create the `.part`, reserve its space and write the bytes known beforehand.

        The caller holds the output's lock: `.part` files of that name are leftovers of a run that
        was killed, and are removed.
        """
        self.out = out
        self.final = Path(out.path)
        self._overwrite = overwrite
        self._check_final()
        _remove_leftovers(self.final)
        self.part = self.final.with_name(f".{self.final.name}.{secrets.token_hex(4)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self.part, flags, 0o666)
        try:
            _reserve(self._fd, out.nbytes)
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
            os.fsync(self._fd)
            self._close()
            module.check(self.part, self.out)
            self._check_final()
            if record is not None:
                record()
            self.part.rename(self.final)
            sync_folder(self.final.parent)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written; a second call does nothing."""
        try:
            self._close()
        finally:
            with contextlib.suppress(FileNotFoundError):
                self.part.unlink()

    def _check_final(self) -> None:
        if not os.path.lexists(self.final):
            return
        if not self._overwrite:
            raise UsageError(f"{self.final}: exists already; pass --overwrite to replace it")
        if self.final.is_dir() and not self.final.is_symlink():
            raise UsageError(f"{self.final}: is a folder; an output file cannot replace it")

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # a close that fails has closed all the same
        if fd >= 0:
            os.close(fd)


def _remove_leftovers(final: Path) -> None:
    pattern = f".{glob.escape(final.name)}.{'[0-9a-f]' * 8}.part"
    for path in final.parent.glob(pattern):
        path.unlink(missing_ok=True)


def write_small(path: Path, data: bytes) -> None:
    """Write a small file whole: `.part`, sync, rename, sync of the folder."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            write_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        part.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _reserve(fd: int, nbytes: int) -> None:
    """Give the file its size; refuse at once when the file system has not that much space.

    Blocks are not allocated here: on tmpfs that clears every page by one thread, and the
    writes that follow do it in parallel.
    """
    status = os.fstatvfs(fd)
    free = status.f_bavail * status.f_frsize
    if nbytes > free:
        raise OSError(
            errno.ENOSPC, f"the output needs {nbytes:,} bytes, {free:,} are free in its folder"
        )
    os.ftruncate(fd, nbytes)
