"""One run an output at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

from anamnesis import owned
from anamnesis.errors import UsageError, printable

_MAX_BYTES = 4096  # of a lock, which says who holds it where that is all there is
# What `flock` answers where the file system has none: Lustre without the mount option, mounts of
# object stores, NFS without its lock daemon.
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class OutputLock:
    """An advisory lock (flock) on a file beside the output, which is removed on release.

    Where the file system has no flock, the file itself is the lock: it holds whoever made it, and
    one that a killed run left behind has to be removed by hand. `note` is told of that.
    """

    def __init__(self, out: Path, note: Callable[[str], None] | None = None) -> None:
        """Name the lock of the output at `out`."""
        self._out = out
        self._note = note
        self._path = out.with_name(f".{out.name}.anamnesis.lock")
        self._fd = -1

    def __enter__(self) -> OutputLock:
        while True:
            fd, made = self._open()
            try:
                if self._lock(fd, made):
                    self._fd = fd
                    return self
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # the holder before removed the file between our open and our lock

    def __exit__(self, *error: object) -> None:
        try:
            self._path.unlink(missing_ok=True)
            owned.settle(self._path)
        finally:
            os.close(self._fd)

    def _open(self) -> tuple[int, bool]:
        """A descriptor for the file, and whether this made it."""
        while True:
            with contextlib.suppress(FileExistsError):
                return owned.create(self._path), True
            with contextlib.suppress(FileNotFoundError):
                return owned.open_owned(self._path, os.O_RDWR, _MAX_BYTES), False

    def _lock(self, fd: int, made: bool) -> bool:
        """Take the lock; False where the file is another one by now."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{self._out}: another run is writing it (lock {self._path})"
            ) from None
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            self._hold_by_name(fd, made)
            return True
        return self._still_there(fd)

    def _hold_by_name(self, fd: int, made: bool) -> None:
        if not made:
            holder = printable(os.pread(fd, 200, 0).decode("utf-8", "replace").strip())
            raise UsageError(
                f"{self._out}: another run is writing it, or was killed ({holder or 'unknown'}): "
                f"its file system has no flock to tell which; if that run is gone, remove "
                f"{self._path}"
            )
        try:
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        if self._note is not None:
            self._note(f"the file system of {self._out} has no flock: {self._path} is the lock")

    def _still_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._path))
        except FileNotFoundError:
            return False
