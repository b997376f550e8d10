"""A tensor's numbers from the record batches of an Arrow file, packed or not.

What lies beside the values of a batch is held against the tensor's shape before they are read:
indices of the dictionary (all the tensor's own), row numbers (each one more) and list offsets (each
a row further). So what comes out is what any Arrow reader gets, whatever a stranger wrote there.

Packed buffers (Columnar.html, "Compression") start with their plain length, an i64; -1 means that
the buffer is stored as it is. They are unpacked as a stream, forwards, in bounded memory.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from typing import Any, Protocol

import numpy as np

from anamnesis.errors import FormatError
from anamnesis.limits import KiB
from anamnesis.readers.base import Rows, Run, Stored
from anamnesis.readers.source import SourceFile
from anamnesis.readers.spans import SpanCrc

_LENGTH = struct.Struct("<q")
_STEP_ROWS = 64 * KiB  # of what is checked at a time
_SKIP_BYTES = 256 * KiB


class _Buffer(Protocol):
    def read_into(self, begin: int, buffer: Any) -> None:
        """Fill `buffer` with the plain bytes from `begin` on."""
        ...


class RowBytes:
    """What `open_raw` gives for a tensor in record batches."""

    def __init__(self, stored: Stored, rows: Rows, file: SourceFile) -> None:
        self._stored, self._rows, self._file = stored, rows, file
        self._firsts = [run.first for run in rows.runs]
        self._current = -1
        self._values: _Buffer | None = None

    def read_into(self, begin: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from `begin` on.

        Raises FormatError for a batch that is not what the shape says, or does not unpack.
        """
        view = memoryview(buffer).cast("B")
        row_bytes = self._rows.row_bytes
        done = 0
        while done < len(view):
            at = begin + done
            number = bisect_right(self._firsts, at // row_bytes) - 1
            run = self._rows.runs[number]
            if number != self._current or self._values is None:
                self._check(run)
                self._current, self._values = number, self._open(run, 3, run.rows * row_bytes)
            within = at - run.first * row_bytes
            part = view[done : done + run.rows * row_bytes - within]
            self._values.read_into(within, part)
            done += len(part)

    def spans(self) -> list[SpanCrc]:
        return []

    def _check(self, run: Run) -> None:
        number, width = self._rows.number, self._rows.width
        indices = self._open(run, 0, 4 * run.rows)
        numbers = self._open(run, 1, 8 * run.rows)
        offsets = self._open(run, 2, 8 * (run.rows + 1))
        for first in range(0, run.rows + 1, _STEP_ROWS):
            rows = np.arange(first, min(first + _STEP_ROWS, run.rows + 1), dtype=np.int64)
            here = min(len(rows), run.rows - first)
            index = np.empty(here, np.int32)
            row = np.empty(here, np.int64)
            offset = np.empty(len(rows), np.int64)
            if here:
                indices.read_into(4 * first, index)
                numbers.read_into(8 * first, row)
            offsets.read_into(8 * first, offset)
            for what, same in (
                ("dictionary index", (index == number).all()),
                ("row number", (row == rows[:here] + run.first).all()),
                ("list offset", (offset == rows * width).all()),
            ):
                if not same:
                    raise FormatError(
                        f"{self._where(run)}: a {what} that is not what anamnesis.tensors says"
                    )

    def _open(self, run: Run, which: int, nbytes: int) -> _Buffer:
        offset, stored_bytes = run.buffers[which]
        where = self._where(run)
        if not run.codec:
            return _Plain(self._file, offset)
        (length,) = _LENGTH.unpack(self._file.read(offset, _LENGTH.size))
        if length == -1 and stored_bytes == _LENGTH.size + nbytes:
            return _Plain(self._file, offset + _LENGTH.size)
        if length != nbytes:
            raise FormatError(
                f"{where}: a packed buffer of {length:,} bytes where {nbytes:,} are needed"
            )
        begin = offset + _LENGTH.size
        return _Packed(self._file, begin, stored_bytes - _LENGTH.size, nbytes, run.codec, where)

    def _where(self, run: Run) -> str:
        name = self._stored.name
        return f"{self._file.path}: tensor {name!r:.200}: rows from {run.first:,} on"


class _Plain:
    def __init__(self, file: SourceFile, offset: int) -> None:
        self._file, self._offset = file, offset

    def read_into(self, begin: int, buffer: Any) -> None:
        self._file.read_into(self._offset + begin, buffer)


class _Packed:
    """A packed buffer; made for going forwards, going back unpacks from the start."""

    def __init__(
        self, file: SourceFile, offset: int, packed: int, nbytes: int, codec: str, where: str
    ) -> None:
        self._file, self._offset, self._packed = file, offset, packed
        self._nbytes, self._codec, self._where = nbytes, codec, where
        self._restart()

    def read_into(self, begin: int, buffer: Any) -> None:
        if begin < self._at:
            self._restart()
        if begin > self._at:
            skipped = memoryview(bytearray(min(_SKIP_BYTES, begin - self._at)))
            while self._at < begin:
                self._take(skipped[: begin - self._at])
        self._take(memoryview(buffer).cast("B"))
        if self._at == self._nbytes and (self._pull(memoryview(bytearray(1))) or self._source.left):
            raise FormatError(f"{self._where}: unpacks to more than {self._nbytes:,} bytes")

    def _restart(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - for packed files alone

        self._at = 0
        self._source = _Source(self._file, self._offset, self._packed)
        stream = pa.PythonFile(self._source, mode="r")
        self._stream = pa.CompressedInputStream(stream, self._codec)

    def _take(self, view: memoryview) -> None:
        while view:
            got = self._pull(view)
            if not got:
                raise FormatError(f"{self._where}: unpacks to fewer than {self._nbytes:,} bytes")
            view = view[got:]
            self._at += got

    def _pull(self, view: memoryview) -> int:
        import pyarrow as pa  # noqa: PLC0415

        try:
            return int(self._stream.readinto(view))
        except (OSError, pa.ArrowException) as error:
            if self._source.error is not None:
                raise self._source.error from None
            raise FormatError(f"{self._where}: broken {self._codec} data ({error})") from None


class _Source(io.RawIOBase):
    """The packed bytes, for Arrow's stream; `error` is what reading them raised."""

    def __init__(self, file: SourceFile, offset: int, nbytes: int) -> None:
        self._file, self._offset = file, offset
        self.left = nbytes
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        try:
            data = self._file.read(self._offset, size) if size else b""
        except Exception as error:
            self.error = error
            raise
        self._offset += size
        self.left -= size
        return data
