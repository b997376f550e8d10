"""Byte ranges of local files, read with `pread` into the caller's own buffers.

Inputs are never mapped: a file that is truncated under a map kills the process (SIGBUS), while
`pread` returns short and can be reported. A path must name a regular file; opening does not
block on a FIFO, and every later read is checked against the identity seen at opening.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any

from anamnesis.errors import FormatError, IntegrityError
from anamnesis.readers.base import FileId

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class LocalFile:
    """An open regular file; reads are positional, so threads may share one."""

    def __init__(self, path: str | Path) -> None:
        """Open `path`; raises OSError, or FormatError when it is no regular file."""
        self.path = str(path)
        self._fd = os.open(self.path, _FLAGS)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{self.path}: not a regular file")
        except BaseException:
            os.close(self._fd)
            raise
        self.id = _identity(self.path, status)

    @property
    def size(self) -> int:
        return self.id.size

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable buffer from `offset`; IntegrityError if the file ends before."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            got = os.preadv(self._fd, [view[done:]], offset + done)
            if got == 0:
                raise IntegrityError(
                    f"{self.path}: ended at byte {offset + done:,} while {len(view) - done:,} more "
                    f"were expected; it had {self.size:,} bytes when it was opened"
                )
            done += got

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, for headers; the caller has checked the size."""
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self, expected: FileId | None = None) -> None:
        """Raise IntegrityError when the file is not the one that was opened at first."""
        now = _identity(self.path, os.fstat(self._fd))
        before = expected or self.id
        if now != before:
            raise IntegrityError(
                f"{self.path}: changed while it was read (size {before.size:,} -> {now.size:,} "
                f"bytes, mtime {before.mtime_ns} -> {now.mtime_ns} ns)"
            )

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _identity(path: str, status: os.stat_result) -> FileId:
    return FileId(path, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)
