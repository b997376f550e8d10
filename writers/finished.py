"""Finished output files, opened to be read again: on a disk, or by ranges of what a URL names."""

from __future__ import annotations

import io
import os
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

from anamnesis import owned
from anamnesis.limits import MiB
from anamnesis.readers.source import is_url, open_source

if TYPE_CHECKING:
    from anamnesis.readers.source import SourceFile

_BUFFER_BYTES = MiB


def open_finished(path: PurePath | str) -> IO[bytes]:
    """A finished output to read and seek in; raises OSError, and SecurityError for no file."""
    name = os.fspath(path)
    if not is_url(name):
        return open(owned.open_finished(name), "rb")
    return io.BufferedReader(_Ranges(open_source(name)), _BUFFER_BYTES)


class _Ranges(io.RawIOBase):
    """A source as Python's files are."""

    def __init__(self, source: SourceFile) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._source.size - self._at)]
        if view:
            self._source.read_into(self._at, view)
        self._at += len(view)
        return len(view)

    def close(self) -> None:
        self._source.close()
        super().close()


__all__ = ["open_finished"]
