"""The bytes of one stored tensor, as if they were plain little-endian numbers in row-major order.

Whatever a container does to them (deflate, strides, byte order) is undone window by window into the
caller's buffer, so that kernels and sinks never know. The CRC-32 of archive entries is taken of the
bytes as they stream by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from zlib_ng.zlib_ng import crc32

from anamnesis.readers.base import Stored
from anamnesis.readers.inflate import SPOOL_BYTES, Inflater
from anamnesis.readers.source import SourceFile
from anamnesis.readers.spans import RawBytes as RawBytes
from anamnesis.readers.spans import SpanCrc as SpanCrc
from anamnesis.readers.strides import gather_part


def open_raw(stored: Stored, file: SourceFile) -> RawBytes:
    """Reads `stored` from `file`, undoing what its view says."""
    if stored.view is None:
        return _Plain(stored, file)
    if stored.view.rows is not None:
        from anamnesis.readers.arrow_values import RowBytes  # noqa: PLC0415 - for Arrow alone

        return RowBytes(stored, stored.view.rows, file)
    return _Viewed(stored, file)


class _Plain:
    def __init__(self, stored: Stored, file: SourceFile) -> None:
        self._offset, self._file = stored.offset, file

    def read_into(self, begin: int, buffer: Any) -> None:
        self._file.read_into(self._offset + begin, buffer)

    def spans(self) -> list[SpanCrc]:
        return []


class _Viewed:
    def __init__(self, stored: Stored, file: SourceFile) -> None:
        view = stored.view
        assert view is not None
        self._stored, self._view = stored, view
        elems = math.prod(stored.shape)
        self._itemsize = view.block or (stored.nbytes // elems if stored.nbytes else 1)
        self._read: Callable[[int, Any], None] = file.read_into
        self._inflater = None
        if view.member is not None and view.member.deflated:
            self._inflater = Inflater(view.member, file)
            self._read = self._inflater.read_into
        self._spooled = False
        self._crc = 0
        self._first = self._next = -1

    def read_into(self, begin: int, buffer: Any) -> None:
        if not len(buffer):
            return
        moved = self._view.strides is not None or self._view.swap > 1
        if moved and (begin % self._itemsize or len(buffer) % self._itemsize):
            self._widened(begin, buffer)
            return
        if self._view.strides is None:
            self._read(self._stored.offset + begin, buffer)
            self._account(begin, buffer)
        else:
            self._gather(begin, buffer, self._view.strides)
        if self._view.block:
            rows = buffer.reshape(-1, self._view.block)
            for at in self._view.fields:
                number = rows[:, at : at + self._view.swap]
                number[:] = number[:, ::-1].copy()
        elif self._view.swap > 1:
            buffer.view(f"u{self._view.swap}").byteswap(inplace=True)

    def spans(self) -> list[SpanCrc]:
        member = self._view.member
        if member is None:
            return []
        path, name = member.file.path, member.name
        if self._inflater is not None:
            inflated, crc = self._inflater.inflated
            return [SpanCrc(path, name, 0, inflated, crc)] if inflated else []
        if self._first < 0:
            return []
        base = self._stored.offset - member.offset
        return [SpanCrc(path, name, base + self._first, base + self._next, self._crc)]

    def _account(self, begin: int, buffer: Any) -> None:
        if self._view.member is None or self._inflater is not None:
            return
        if self._first < 0:
            self._first = self._next = begin
        if begin == self._next:
            self._crc = crc32(buffer, self._crc)
            self._next = begin + len(buffer)

    def _gather(self, begin: int, buffer: Any, strides: tuple[int, ...]) -> None:
        stored, itemsize = self._stored, self._itemsize
        if self._inflater is not None and not self._spooled:
            # Strips, and the slices of odd strides, go through the entry again and again.
            self._spooled = True
            if self._inflater.nbytes > SPOOL_BYTES:
                self._read = self._inflater.spool().read_into
        # numpy moves integers faster than opaque items.
        kind = f"u{itemsize}" if itemsize in (1, 2, 4, 8) else f"V{itemsize}"

        def read(element: int, target: Any) -> None:
            self._read(stored.offset + element * itemsize, target)

        gather_part(read, 0, stored.shape, strides, begin // itemsize, buffer.view(kind))

    def _widened(self, begin: int, buffer: Any) -> None:
        """A range that cuts elements, by way of the whole elements that it touches."""
        first = begin - begin % self._itemsize
        stop = begin + len(buffer)
        whole = np.empty(stop + -stop % self._itemsize - first, np.uint8)
        self.read_into(first, whole)
        buffer[:] = whole[begin - first : stop - first]
