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
from anamnesis.limits import MiB
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


STREAMED_BYTES = 4 * MiB  # more than that leaves the caches before it is used
WHOLE_LINES = 64  # rows of the source that fill cache lines of the output

OpenBoxes = Callable[[int, Any], Boxes]  # (number of the source, memory that places lie in)


class Gathered(NamedTuple):
    """What was gathered for a window, as its reader's blocks."""

    views: dict[str, Any]


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
        self._has_gaps = sum(segment.elems for segment in self._segments) < self._elems
        kind = _block_kind(stored.block_bytes) if stored else element_kind(source_dtype(tensor))
        self._memory = aligned(step.batch_units * self._unit, kind)
        self._chunk = self._memory
        if tensor.scattered:
            self._chunk = aligned(step.window_units * self._unit, kind)

    def read(self, window: Window) -> Gathered:
        """The elements of a window, as its sources have them."""
        return Gathered({"payload": self._bytes(self._filled(*self._range(window)))})

    def within(self, blocks: Any, batch: Window, window: Window) -> dict[str, Any]:
        """The elements of a window inside those of the batch that was read."""
        first, stop = self._range(window)
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
            found = self._open_source(number, self._chunk)
        self._open[number] = found
        return found

    def _filled(self, first: int, stop: int) -> Any:
        """The output's elements `[first, stop)`, each read to its place."""
        out = self._memory[: stop - first]
        if self._has_gaps:
            out[:] = np.zeros((), out.dtype)
        for box in boxes(self._segments, first, stop):
            at = box.start - first
            target = out[at : at + math.prod(box.dims)].reshape(box.dims)
            for part, index, place in box.parts():
                base, strides = box.place_in(part, index)
                source = self._source(part.source)
                if self.tensor.scattered:
                    self._transposed(source, base, strides, target[place])
                else:
                    source.fill(base, strides, target[place])
        return out

    def _transposed(self, source: Boxes, base: int, strides: tuple[int, ...], target: Any) -> None:
        """Read a box in the order of its source, by strips of a window each, and turn these."""
        order = sorted(range(target.ndim), key=lambda a: -strides[a])
        back = np.argsort(order)
        in_order = target.transpose(order)
        steps, shape = tuple(strides[a] for a in order), in_order.shape
        streamed = target.nbytes > STREAMED_BYTES
        # The first axis that a strip has some of, with all of the next ones.
        axis = next(a for a in range(len(shape)) if math.prod(shape[a + 1 :]) <= len(self._chunk))
        inner = math.prod(shape[axis + 1 :])
        most = len(self._chunk) // inner
        if most > WHOLE_LINES:
            most = most // WHOLE_LINES * WHOLE_LINES
        within = [a - axis for a in back if a >= axis]
        for outer in np.ndindex(shape[:axis]):
            start = base + sum(i * s for i, s in zip(outer, steps, strict=False))
            for first in range(0, shape[axis], most):
                place = in_order[(*outer, slice(first, first + most))]
                room = self._chunk[: place.size].reshape(place.shape)
                source.fill(start + first * steps[axis], steps[axis:], room)
                copy_transposed(room.transpose(within), place.transpose(within), streamed=streamed)


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
    inner = math.prod(dims[1:])
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
