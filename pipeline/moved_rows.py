"""Rows of a derived tensor's codes: the rows of its sources, in another order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels.transcoders import Inexact, Read
from anamnesis.pipeline.row_sources import RowSources
from anamnesis.readers.batch import BlockReader, OpenFile

_COVER = 4  # rows that are read for one that is needed, rather than reading each run by itself


class RowReader:
    """Reads codes of rows of a derived tensor; `read` makes numbers of a source's window."""

    def __init__(self, rows: RowSources, open_file: OpenFile, read: Read) -> None:
        self._rows, self._open, self._read = rows, open_file, read
        self._reader: tuple[int, BlockReader, Mapping[str, Any]] | None = None

    def numbers(self, start: int, stop: int) -> Any:
        """The numbers of output rows `[start, stop)`; raises Inexact where sources differ."""
        found: Any = None
        for place, source, rows in self._runs(start, stop):
            numbers = self._of_rows(source, rows)
            if found is None:
                found = _room(numbers, stop - start)
            _store(found, place, numbers)
        return found

    def _runs(self, start: int, stop: int) -> Iterator[tuple[Any, int, Any]]:
        """Output rows, from `start` on, and the rows of a source that they are."""
        columns = self._rows.columns
        for segment in self._rows.segments:
            first = max(start, segment.start // columns)
            last = min(stop, (segment.start + segment.elems) // columns)
            if first >= last:
                continue
            rows = np.arange(first, last)
            index = np.unravel_index(rows * columns - segment.start, segment.dims)
            for part in segment.parts:
                inside = np.ones(len(rows), bool)
                elems = np.full(len(rows), part.base, np.int64)
                for i, lo, hi, stride in zip(index, part.lo, part.hi, part.strides, strict=True):
                    inside &= (i >= lo) & (i < hi)
                    elems += (i - lo) * stride
                if inside.any():
                    yield rows[inside] - start, part.source, elems[inside] // columns

    def _of_rows(self, source: int, rows: Any) -> Any:
        """The numbers of some rows of a source, in their order."""
        low, high = int(rows.min()), int(rows.max()) + 1
        if high - low <= _COVER * len(rows):
            return _taken(*self._window(source, low, high), rows)
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        made: Any = None
        for place in np.split(np.arange(len(rows)), cuts):
            some = rows[place]
            low, high = int(some[0]), int(some[-1]) + 1
            numbers = _taken(*self._window(source, low, high), some)
            if made is None:
                made = _room(numbers, len(rows))
            _store(made, place, numbers)
        return made

    def _window(self, number: int, low: int, high: int) -> tuple[Any, int]:
        """The numbers of whole units that hold rows `[low, high)`, and the first row of them."""
        tensor, columns = self._rows.sources[number], self._rows.columns
        if self._reader is None or self._reader[0] != number:
            reader = BlockReader(tensor, self._open, reuse=True)
            found = {**tensor.params, "shape": tensor.shape, "wholes": reader.wholes()}
            self._reader = (number, reader, found)
        _, reader, params = self._reader
        unit, multiple = tensor.unit_elems, tensor.unit_multiple
        first = low * columns // unit // multiple * multiple
        last = min(-(-high * columns // unit // multiple) * multiple, tensor.units)
        window = Window(first, last)
        return self._read(reader.read(window).views, params, window), first * unit // columns


def _arrays(numbers: Any) -> dict[str, Any]:
    """What of numbers has a row a row."""
    return {k: v for k, v in numbers._asdict().items() if isinstance(v, np.ndarray) and v.ndim == 2}


def _taken(numbers: Any, first: int, rows: Any) -> Any:
    return numbers._replace(**{k: v[rows - first] for k, v in _arrays(numbers).items()})


def _room(numbers: Any, rows: int) -> Any:
    made = {k: np.empty((rows, v.shape[1]), v.dtype) for k, v in _arrays(numbers).items()}
    return numbers._replace(**made)


def _store(room: Any, place: Any, numbers: Any) -> None:
    given, there = _arrays(numbers), _arrays(room)
    others = [k for k in numbers._fields if k not in given]
    if given.keys() != there.keys() or any(getattr(numbers, k) != getattr(room, k) for k in others):
        raise Inexact("its parts have numbers of their own for all of a tensor")
    for key, array in given.items():
        there[key][place] = array
