"""The bytes of one stored tensor, as if they were plain little-endian numbers in row-major order.

Whatever a container does to them (deflate, strides, byte order) is undone window by window into the
caller's buffer, so that kernels and sinks never know. The CRC-32 of archive entries is taken of the
bytes as they stream by.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from anamnesis.errors import FormatError
from anamnesis.limits import KiB
from anamnesis.readers.base import Member, Stored
from anamnesis.readers.source import LocalFile

_INFLATE_BYTES = 256 * KiB
Read = Callable[[int, Any], None]


class SpanCrc(NamedTuple):
    """The CRC-32 of bytes `[start, stop)` of an archive entry."""

    member: str
    start: int
    stop: int
    crc32: int


class RawBytes(Protocol):
    """What `open_raw` gives."""

    def read_into(self, begin: int, buffer: Any) -> None:
        """Fill `buffer` (uint8) with the tensor's bytes from `begin` on."""
        ...

    def spans(self) -> list[SpanCrc]:
        """What was read in order so far, with its checksum."""
        ...


def open_raw(stored: Stored, file: LocalFile) -> RawBytes:
    """Reads `stored` from `file`, undoing what its view says."""
    if stored.view is None:
        return _Plain(stored, file)
    return _Viewed(stored, file)


class _Plain:
    def __init__(self, stored: Stored, file: LocalFile) -> None:
        self._offset, self._file = stored.offset, file

    def read_into(self, begin: int, buffer: Any) -> None:
        self._file.read_into(self._offset + begin, buffer)

    def spans(self) -> list[SpanCrc]:
        return []


class _Viewed:
    def __init__(self, stored: Stored, file: LocalFile) -> None:
        view = stored.view
        assert view is not None
        self._stored, self._view, self._file = stored, view, file
        self._inflater = None
        if view.member is not None and view.member.deflated:
            self._inflater = Inflater(view.member, file)
        self._crc = 0
        self._first = self._next = -1

    def read_into(self, begin: int, buffer: Any) -> None:
        if self._view.strides is None:
            self._read(self._stored.offset + begin, buffer)
            self._account(begin, buffer)
        else:
            self._gather(begin, buffer)
        if self._view.swap > 1:
            buffer.view(f"u{self._view.swap}").byteswap(inplace=True)

    def spans(self) -> list[SpanCrc]:
        member = self._view.member
        if member is None or self._first < 0:
            return []
        # Of a stored entry, offsets count from the start of the file.
        base = self._stored.offset - (0 if member.deflated else member.offset)
        return [SpanCrc(member.name, base + self._first, base + self._next, self._crc)]

    def _read(self, offset: int, buffer: Any) -> None:
        if self._inflater is None:
            self._file.read_into(offset, buffer)
        else:
            self._inflater.read_into(offset, buffer)

    def _account(self, begin: int, buffer: Any) -> None:
        if self._view.member is None:
            return
        if self._first < 0:
            self._first = self._next = begin
        if begin == self._next:
            self._crc = zlib.crc32(buffer, self._crc)
            self._next = begin + len(buffer)

    def _gather(self, begin: int, buffer: Any) -> None:
        """Whole slices along the first dimension; the plan cuts windows so."""
        stored, strides = self._stored, self._view.strides
        assert strides is not None
        itemsize = stored.nbytes // max(1, math.prod(stored.shape))
        slice_bytes = math.prod(stored.shape[1:]) * itemsize
        first, count = begin // slice_bytes, len(buffer) // slice_bytes
        shape = (count, *stored.shape[1:])
        out = buffer.view(f"V{itemsize}").reshape(shape)

        def read(element: int, target: Any) -> None:
            self._read(stored.offset + element * itemsize, target.view(np.uint8))

        gather(read, first * strides[0], shape, strides, out)


def gather(
    read: Read, base: int, shape: tuple[int, ...], strides: tuple[int, ...], out: Any
) -> None:
    """Copy a strided box of elements into `out`, reading runs that are mostly wanted.

    `read(element, target)` fills a 1-D array from an element offset. Boxes that lie too far
    apart are split along their widest stride, which makes lines of a transposed matrix runs.
    """
    if 0 in shape:
        return
    extent = 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
    if extent <= 2 * math.prod(shape):
        run = np.empty(extent, out.dtype)
        read(base, run)
        steps = tuple(s * out.dtype.itemsize for s in strides)
        out[...] = np.lib.stride_tricks.as_strided(run, shape, steps, writeable=False)
        return
    axis = max((a for a in range(len(shape)) if shape[a] > 1), key=lambda a: strides[a])
    rest, steps = shape[:axis] + shape[axis + 1 :], strides[:axis] + strides[axis + 1 :]
    for k in range(shape[axis]):
        gather(read, base + k * strides[axis], rest, steps, out[(slice(None),) * axis + (k,)])


class Inflater:
    """A deflated archive entry, read forwards; output never exceeds its declared size."""

    def __init__(self, member: Member, file: LocalFile) -> None:
        """Begin at the start of the entry."""
        self._member, self._file = member, file
        self._restart()

    def _restart(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._position = self._packed = 0
        self._pending = b""

    def read_into(self, offset: int, buffer: Any) -> None:
        """Inflated bytes from `offset` on; going back inflates from the start again."""
        if offset < self._position:
            self._restart()
        scratch = bytearray(min(_INFLATE_BYTES, offset - self._position))
        while self._position < offset:
            self._fill(memoryview(scratch)[: offset - self._position])
        self._fill(memoryview(buffer).cast("B"))

    def _fill(self, target: memoryview) -> None:
        done = 0
        while done < len(target):
            data = self._some(len(target) - done)
            target[done : done + len(data)] = data
            done += len(data)
        self._position += done

    def _some(self, most: int) -> bytes:
        member = self._member
        while True:
            if not self._pending and not self._stream.eof:
                left = member.packed_bytes - self._packed
                size = min(_INFLATE_BYTES, left)
                self._pending = self._file.read(member.offset + self._packed, size)
                self._packed += size
            try:
                data = self._stream.decompress(self._pending, most)
            except zlib.error as error:
                raise FormatError(
                    f"{member.file.path}: member {member.name!r}: broken deflate stream ({error})"
                ) from None
            self._pending = self._stream.unconsumed_tail
            if data:
                return data
            if self._stream.eof or (not self._pending and self._packed == member.packed_bytes):
                raise FormatError(
                    f"{member.file.path}: member {member.name!r}: inflates to fewer than the "
                    f"{member.nbytes:,} bytes declared"
                )

    def finish(self) -> None:
        """Raise FormatError unless the stream ends where the entry does."""
        if self._stream.decompress(self._pending, 1) or not self._stream.eof:
            raise FormatError(
                f"{self._member.file.path}: member {self._member.name!r}: inflates to more than "
                f"the {self._member.nbytes:,} bytes declared"
            )
        if self._stream.unused_data or self._packed != self._member.packed_bytes:
            raise FormatError(
                f"{self._member.file.path}: member {self._member.name!r}: bytes after the end of "
                "its deflate stream"
            )
