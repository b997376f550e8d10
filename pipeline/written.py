"""The values of an output file, read again piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from anamnesis.limits import Limits, MiB
from anamnesis.readers import open_container
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.raw import RawBytes, open_raw
from anamnesis.readers.source import SourceFile, is_url, open_source
from anamnesis.writers.base import OutFile, Slot

_LIMITS = Limits(max_expansion_ratio=1 << 62)  # what was written may be all zeros


class Written(Protocol):
    """What `open_written` gives."""

    def values(self, name: str, slot: Slot, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes of elements `[start, stop)` of a tensor, in memory that is used again."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def open_written(file: OutFile, ahead_bytes: int = 0) -> Written:
    """Open an output file; a packed one is read as an input is.

    So much is fetched ahead of one behind a URL, but for Parquet, whose columns are read whole.
    Raises OSError, and of a packed file that is damaged the errors of the readers.
    """
    if not file.packer:
        return _Plain(file, ahead_bytes)
    if file.packer == "parquet_pack":
        from anamnesis.writers.parquet_pack import Written as ParquetFile

        return ParquetFile(file)
    return _Packed(file, ahead_bytes)


class _Plain:
    def __init__(self, file: OutFile, ahead_bytes: int) -> None:
        self._file: SourceFile = open_source(file.path)
        if ahead_bytes and is_url(file.path):
            from anamnesis.readers.ahead import ForwardFile
            from anamnesis.readers.remote import RemoteFile

            assert isinstance(self._file, RemoteFile)
            self._file = ForwardFile(self._file, ahead_bytes)
        self._buffer = memoryview(bytearray(MiB))

    def values(self, name: str, slot: Slot, start: int, stop: int) -> Iterator[memoryview]:
        for offset, nbytes in slot.ranges(start, stop):
            for done in range(0, nbytes, len(self._buffer)):
                view = self._buffer[: nbytes - done]
                self._file.read_into(offset + done, view)
                yield view

    def close(self) -> None:
        self._file.close()


class _Packed(_Plain):
    def __init__(self, file: OutFile, ahead_bytes: int) -> None:
        super().__init__(file, ahead_bytes)
        self._stored = open_container(file.path, _LIMITS).stored
        self._raw: tuple[str, RawBytes] | None = None  # packed values are best read forwards

    def values(self, name: str, slot: Slot, start: int, stop: int) -> Iterator[memoryview]:
        stored = self._stored[name]
        if self._raw is None or self._raw[0] != name:
            self._raw = (name, open_raw(stored, self._file))
        itemsize = DTYPES[stored.dtype].bits // 8
        begin, end = start * itemsize, min(stop * itemsize, stored.nbytes)
        for at in range(begin, end, len(self._buffer)):
            view = self._buffer[: end - at]
            self._raw[1].read_into(at, np.frombuffer(view, np.uint8))
            yield view
