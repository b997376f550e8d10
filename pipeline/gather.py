"""Windows of a derived tensor: its sources' elements, moved to where they belong.

A window is a run of the output. It is cut into boxes, whose elements lie in the sources with a
stride an axis, and each is filled by its source (`boxes`), so that memory is that of a window
whatever the order is. Where neighbours of the output lie apart, as in a transposed matrix, a batch
of windows is read in the order of the source, and reordered window by window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from anamnesis.kernels import Window, decoder
from anamnesis.kernels.transposed import copy_transposed
from anamnesis.names.derived import Derived, Part, Segment
from anamnesis.names.values import function
from anamnesis.pipeline.decode import OUT
from anamnesis.pipeline.plan import Step, source_dtype
from anamnesis.pipeline.stored_blocks import StoredBlocks
from anamnesis.readers.batch import Whole, aligned
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.raw import SpanCrc


class Boxes(Protocol):
    """A source by boxes of its elements."""

    @property
    def read_bytes(self) -> int:
        """Bytes of its blocks read so far."""
        ...

    def fill(self, base: int, strides: tuple[int, ...], place: Any) -> None:
        """The elements from `base` on, with a stride an axis of `place`, into that."""
        ...


OpenBoxes = Callable[[int, Any], Boxes]  # (number of the source, memory that places lie in)


class Gathered(NamedTuple):
    """What was gathered for a window, as its reader's blocks."""

    views: dict[str, Any]


class _Held(NamedTuple):
    """A part of a box of the output, of `dims` from `start` on, in the order of its source.

    `elements` are those from `lo` on, along each axis of the box.
    """

    start: int
    dims: tuple[int, ...]
    lo: tuple[int, ...]
    elements: Any


class Gatherer:
    """Reads windows of a derived tensor; in place of a `BlockReader` in the one loop.

    `open_source` opens a source of the tensor; few are kept open, the others are closed. With
    `stored`, what is moved are blocks as they are stored, and else decoded elements.
    """

    def __init__(self, step: Step, open_source: OpenBoxes, stored: StoredBlocks | None) -> None:
        """Prepare to gather in windows of `step`, whose tensor is a `Derived`."""
        tensor = step.tensor
        assert isinstance(tensor, Derived)
        self.tensor = tensor
        self._open_source = open_source
        self._open: dict[int, Boxes] = {}
        self._closed_bytes = 0
        block = stored.block_elems if stored else 1
        self._segments = stored.segments if stored else tensor.segments
        self._unit, self._elems = tensor.unit_elems // block, tensor.elems // block
        kind = _block_kind(stored.block_bytes) if stored else element_kind(source_dtype(tensor))
        self._memory = aligned(step.batch_units * self._unit, kind)
        self._scattered = tensor.scattered
        self._held: list[_Held] = []
        if self._scattered:
            self._reordered = aligned(step.window_units * self._unit, kind)

    def read(self, window: Window) -> Any:
        """The elements of a window, as its sources have them."""
        first, stop = self._range(window)
        if self._scattered:
            self._hold(first, stop)
            return _Batch(self, window)
        return Gathered({"payload": self._bytes(self._filled(first, stop))})

    def within(self, blocks: Any, batch: Window, window: Window) -> dict[str, Any]:
        """The elements of a window inside those of the batch that was read."""
        first, stop = self._range(window)
        if self._scattered:
            return {"payload": self._bytes(self._gathered(first, stop))}
        before = self._range(batch)[0]
        return {"payload": self._bytes(self._memory[first - before : stop - before])}

    @property
    def read_bytes(self) -> int:
        """Bytes of the sources' blocks read so far."""
        return self._closed_bytes + sum(source.read_bytes for source in self._open.values())

    def wholes(self) -> dict[str, Whole]:
        """None: what is moved as it is stored has no parameters beside its blocks."""
        return {}

    def spans(self) -> list[SpanCrc]:
        """None: nothing is read in order."""
        return []

    def _range(self, window: Window) -> tuple[int, int]:
        return window.start * self._unit, min(window.stop * self._unit, self._elems)

    def _bytes(self, values: Any) -> Any:
        rows = values.view(np.uint8)
        return rows.reshape(len(values), -1) if values.dtype.kind == "V" else rows

    def _source(self, number: int) -> Boxes:
        found = self._open.pop(number, None)
        if found is None:
            if len(self._open) >= self.tensor.together:
                oldest = next(iter(self._open))
                self._closed_bytes += self._open.pop(oldest).read_bytes
            found = self._open_source(number, self._memory)
        self._open[number] = found
        return found

    def _filled(self, first: int, stop: int) -> Any:
        """The output's elements `[first, stop)`, each read to its place."""
        out = self._memory[: stop - first]
        if sum(segment.elems for segment in self._segments) < self._elems:
            out[:] = np.zeros((), out.dtype)
        for box in boxes(self._segments, first, stop):
            at = box.start - first
            target = out[at : at + math.prod(box.dims)].reshape(box.dims)
            for part, index, place in box.parts():
                base, strides = box.place_in(part, index)
                self._source(part.source).fill(base, strides, target[place])
        return out

    def _hold(self, first: int, stop: int) -> None:
        """Read the output's elements `[first, stop)` in the order of their sources."""
        self._held, used = [], 0
        for box in boxes(self._segments, first, stop):
            for part, index, place in box.parts():
                base, strides = box.place_in(part, index)
                shape = tuple(s.stop - s.start for s in place)
                order = sorted(range(len(shape)), key=lambda a: -strides[a])
                count = math.prod(shape)
                room = self._memory[used : used + count].reshape([shape[a] for a in order])
                used += count
                self._source(part.source).fill(base, tuple(strides[a] for a in order), room)
                elements = room.transpose(np.argsort(order))
                self._held.append(
                    _Held(box.start, box.dims, tuple(s.start for s in place), elements)
                )

    def _gathered(self, first: int, stop: int) -> Any:
        """The output's elements `[first, stop)`, of those that are held."""
        out = self._reordered[: stop - first]
        if sum(segment.elems for segment in self._segments) < self._elems:
            out[:] = np.zeros((), out.dtype)
        for held in self._held:
            begin = max(first, held.start)
            end = min(stop, held.start + math.prod(held.dims))
            at = begin - first
            for prefix, lo, hi in cover(held.dims, begin - held.start, end - held.start):
                dims = (hi - lo, *held.dims[len(prefix) + 1 :])
                target = out[at : at + math.prod(dims)].reshape(dims)
                at += math.prod(dims)
                ends = tuple(a + n for a, n in zip(held.lo, held.elements.shape, strict=True))
                found = clip(held.lo, ends, prefix, (lo, hi))
                if found is not None:
                    index, place = found
                    count = place[0].stop - place[0].start
                    elements = held.elements[index[:-1]][index[-1] : index[-1] + count]
                    copy_transposed(elements, target[place])
        return out


class _Batch(NamedTuple):
    """What is held for a batch, of which windows are gathered."""

    gatherer: Gatherer
    window: Window

    @property
    def views(self) -> dict[str, Any]:
        """Those of a window that is the whole batch."""
        return self.gatherer.within(self, self.window, self.window)


class Box(NamedTuple):
    """Elements of the output from `start` on, of `dims`.

    In their segment they are at `prefix` of the first axes, and from `lo` on of the next.
    """

    start: int
    dims: tuple[int, ...]
    prefix: tuple[int, ...]
    lo: int
    segment: Segment

    def place_in(self, part: Part, index: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Where the element at `index` of a part is in its source, and the strides of the box."""
        base = part.base + sum(i * s for i, s in zip(index, part.strides, strict=False))
        return base, part.strides[len(self.prefix) :]

    def parts(self) -> Iterator[tuple[Part, tuple[int, ...], tuple[slice, ...]]]:
        """The parts that the box has elements of: the index of the first, and their place."""
        for part in self.segment.parts:
            found = clip(part.lo, part.hi, self.prefix, (self.lo, self.lo + self.dims[0]))
            if found is not None:
                yield part, *found


def boxes(segments: Sequence[Segment], first: int, stop: int) -> Iterator[Box]:
    """The boxes that are elements `[first, stop)` of what is made of `segments`."""
    for segment in segments:
        begin = max(first, segment.start) - segment.start
        end = min(stop, segment.start + segment.elems) - segment.start
        start = segment.start + begin
        for prefix, lo, hi in cover(segment.dims, begin, end):
            box = Box(start, (hi - lo, *segment.dims[len(prefix) + 1 :]), prefix, lo, segment)
            yield box
            start += math.prod(box.dims)


def clip(
    low: Sequence[int], high: Sequence[int], prefix: Sequence[int], span: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[slice, ...]] | None:
    """What a part `[low, high)` has of a box: `prefix` fixes the first axes, `span` is of the next.

    The index of the first element within the part, and the place within the box; None: nothing.
    """
    axis = len(prefix)
    if any(not a <= i < b for i, a, b in zip(prefix, low, high, strict=False)):
        return None
    begin, end = max(span[0], low[axis]), min(span[1], high[axis])
    if begin >= end:
        return None
    index = (*(i - a for i, a in zip(prefix, low, strict=False)), begin - low[axis])
    inner = (slice(a, b) for a, b in zip(low[axis + 1 :], high[axis + 1 :], strict=True))
    return index, (slice(begin - span[0], end - span[0]), *inner)


def element_kind(dtype: str) -> Any:
    """What elements of a dtype are in memory; BF16 are bits."""
    return np.dtype(OUT.get(dtype) or DTYPES[dtype].numpy)


def _block_kind(nbytes: int) -> Any:
    """numpy moves whole numbers faster than opaque items."""
    return np.dtype(f"u{nbytes}" if nbytes in (1, 2, 4, 8) else f"V{nbytes}")


def cover(
    dims: Sequence[int], first: int, stop: int, prefix: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Boxes that are elements `[first, stop)` of a box of `dims`, in order.

    Each is `(prefix, lo, hi)`: the first axes at `prefix`, `[lo, hi)` of the next, all of the rest.
    """
    if first >= stop:
        return
    inner = int(np.prod(dims[1:], dtype=np.int64))
    lo, skip = divmod(first, inner)
    hi, rest = divmod(stop, inner)
    if lo == hi:
        yield from cover(dims[1:], skip, rest, (*prefix, lo))
        return
    if skip:
        yield from cover(dims[1:], skip, inner, (*prefix, lo))
        lo += 1
    if lo < hi:
        yield prefix, lo, hi
    if rest:
        yield from cover(dims[1:], 0, rest, (*prefix, hi))


def finisher(step: Step) -> Callable[[Any, Window], Any]:
    """From gathered elements to the values of a step: what is done to each, and one rounding."""
    tensor = step.tensor
    assert isinstance(tensor, Derived)
    kind = element_kind(step.dtype)
    if not tensor.changed:
        return lambda views, window: views["payload"].view(kind)
    changes = [
        (segment.start, segment.start + segment.elems, function(segment.value))
        for segment in tensor.segments
        if segment.value
    ]
    narrow = decoder("f32")
    out = aligned(step.window_units * tensor.unit_elems, kind) if kind != np.float32 else None

    def run(views: Any, window: Window) -> Any:
        work = views["payload"].reshape(-1).view(np.float32)
        first = window.start * tensor.unit_elems
        with np.errstate(all="ignore"):
            for start, stop, change in changes:
                change(work[max(0, start - first) : max(0, stop - first)])
            if out is None:
                return work
            values = out[: len(work)]
            if kind == np.float16:
                values[:] = work
            else:
                narrow({"payload": views["payload"]}, {}, window, values)
        return values

    return run
