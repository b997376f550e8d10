"""One run an output at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from anamnesis.errors import UsageError


class OutputLock:
    """An advisory lock (flock) on a file beside the output, which is removed on release."""

    def __init__(self, out: Path) -> None:
        """Name the lock of the output at `out`."""
        self._out = out
        self._path = out.with_name(f".{out.name}.anamnesis.lock")
        self._fd = -1

    def __enter__(self) -> OutputLock:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._still_there(fd):
                    self._fd = fd
                    return self
            except BlockingIOError:
                os.close(fd)
                raise UsageError(
                    f"{self._out}: another run is writing it (lock {self._path})"
                ) from None
            except OSError as error:
                os.close(fd)
                text = f"{error.strerror}: its file system must support flock"
                raise OSError(error.errno, text, str(self._path)) from error
            os.close(fd)  # the holder before removed the file between our open and our lock

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)

    def _still_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False
