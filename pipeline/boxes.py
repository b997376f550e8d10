"""Boxes of a source's elements, read into memory of any strides.

A source that is read as it is stored goes straight to its place: rows that lie in order in the file
and elsewhere in memory are one call (`readv`). Others are decoded run by run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from anamnesis.limits import KiB
from anamnesis.readers.source import SourceFile, read_parts
from anamnesis.readers.strides import gather

Fill = Callable[[int, Any], None]  # (first element, one-dimensional array to fill)

_LEAST_RUN = 512  # bytes that are worth a buffer of their own in a call
_GAP_BYTES = 4 * KiB  # reading over so much costs less than another call
_KNOWN = 16  # lists of runs that are kept: windows repeat


class Run(NamedTuple):
    """Elements from `first` on, and the buffers that they fill, one after the other."""

    first: int
    parts: list[memoryview]


class StoredBoxes:
    """Elements of `itemsize` bytes at `offset` of a file, one after the other.

    Places are views into `memory`, which stays where it is.
    """

    def __init__(self, file: SourceFile, offset: int, itemsize: int, memory: Any) -> None:
        self._file, self._offset, self._itemsize = file, offset, itemsize
        self._memory = memory.view(np.uint8)
        self._begin = self._memory.__array_interface__["data"][0]
        self._known: dict[Any, list[Run] | None] = {}
        self.read_bytes = 0

    def fill(self, base: int, strides: tuple[int, ...], place: Any) -> None:
        """The box of elements from `base` on into `place`."""
        at = place.__array_interface__["data"][0] - self._begin
        key = strides, place.shape, place.strides, at
        if key not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = self._runs(strides, place, at)
        runs = self._known[key]
        if runs is None:
            gather(self._read, base, place.shape, strides, place)
            return
        for first, parts in runs:
            read_parts(self._file, self._offset + (base + first) * self._itemsize, parts)
        self.read_bytes += place.nbytes

    def _read(self, element: int, buffer: Any) -> None:
        self._file.read_into(self._offset + element * self._itemsize, buffer)
        self.read_bytes += len(buffer)

    def _runs(self, strides: tuple[int, ...], place: Any, at: int) -> list[Run] | None:
        """The runs of a box; None where they are too short, or apart in memory."""
        size = self._itemsize
        order = [a for a in np.argsort([-s for s in strides], kind="stable") if place.shape[a] > 1]
        shape, steps, jumps = (
            [of[a] for a in order] for of in (place.shape, strides, place.strides)
        )
        run = 1
        while shape and steps[-1] == run and jumps[-1] == run * size:
            run *= shape.pop()
            del steps[-1], jumps[-1]
        if run * size < min(_LEAST_RUN, place.nbytes):
            return None
        firsts, places = _offsets(shape, steps), _offsets(shape, jumps) + at
        memory = memoryview(self._memory)
        nbytes = run * size
        rows = [memory[place : place + nbytes] for place in places.tolist()]
        return list(_joined(firsts.tolist(), rows, run, size))


class DecodedBoxes:
    """Elements of a source that `fill` decodes, run by run."""

    def __init__(self, windows: Any) -> None:
        self._windows = windows

    @property
    def read_bytes(self) -> int:
        """Bytes of its blocks read so far."""
        count: int = self._windows.read_bytes
        return count

    def fill(self, base: int, strides: tuple[int, ...], place: Any) -> None:
        """The box of elements from `base` on into `place`."""
        if place.ndim == 1 and strides == (1,) and place.flags.c_contiguous:
            self._windows.fill(base, place)
            return
        kind = place.dtype

        def read(element: int, buffer: Any) -> None:
            self._windows.fill(element, buffer.view(kind))

        gather(read, base, place.shape, strides, place)


def _offsets(shape: list[int], strides: list[int]) -> Any:
    """The offset of each element of a box, in row-major order."""
    found = np.zeros(1, np.int64)
    for size, stride in zip(shape, strides, strict=True):
        found = (found[:, None] + np.arange(size) * stride).reshape(-1)
    return found


def _joined(firsts: list[int], rows: list[memoryview], run: int, size: int) -> Iterator[Run]:
    """Rows of `run` elements that follow one another in the file, or nearly, as one read."""
    skipped = memoryview(bytearray(_GAP_BYTES))
    parts: list[memoryview] = []
    begin = stop = 0
    for first, row in zip(firsts, rows, strict=True):
        gap = (first - stop) * size
        if parts and 0 < gap <= _GAP_BYTES:
            parts.append(skipped[:gap])
        elif parts and gap:
            yield Run(begin, parts)
            parts = []
        if not parts:
            begin = first
        parts.append(row)
        stop = first + run
    if parts:
        yield Run(begin, parts)
