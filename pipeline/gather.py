"""Windows of a derived tensor: its sources' elements, decoded and moved to where they belong.

A window is a run of the output. It is cut into boxes, whose elements lie in the sources with a
stride an axis; of each, runs of the source are decoded and moved (`readers.strides.gather`), so
that memory is that of a window whatever the order is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window, decoder
from anamnesis.names.derived import Derived, Part, Segment
from anamnesis.names.values import VALUES
from anamnesis.pipeline.decode import OUT
from anamnesis.pipeline.plan import Step, source_dtype
from anamnesis.readers.batch import aligned
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.raw import SpanCrc
from anamnesis.readers.strides import gather

Fill = Callable[[int, Any], None]  # (first element, one-dimensional array to fill)


class Gathered(NamedTuple):
    """What was gathered for a window, as its reader's blocks."""

    views: dict[str, Any]


class Gatherer:
    """Reads windows of a derived tensor; in place of a `BlockReader` in the one loop.

    `open_source(number)` opens a source of the tensor; few are kept open, the others are closed.
    """

    def __init__(self, step: Step, open_source: Callable[[int], tuple[Fill, Any]]) -> None:
        """Prepare to gather in windows of `step`, whose tensor is a `Derived`."""
        tensor = step.tensor
        assert isinstance(tensor, Derived)
        self.tensor = tensor
        self._open_source = open_source
        self._open: dict[int, tuple[Fill, Any]] = {}
        self._closed_bytes = 0
        dtype = source_dtype(tensor)
        kind = np.dtype(OUT.get(dtype) or DTYPES[dtype].numpy)
        self._values = aligned(step.batch_units * tensor.unit_elems, kind)

    def read(self, window: Window) -> Gathered:
        """The elements of a window, as its sources have them."""
        tensor = self.tensor
        first = window.start * tensor.unit_elems
        stop = min(window.stop * tensor.unit_elems, tensor.elems)
        out = self._values[: stop - first]
        if sum(segment.elems for segment in tensor.segments) < tensor.elems:
            out[:] = 0
        for segment in tensor.segments:
            begin = max(first, segment.start)
            end = min(stop, segment.start + segment.elems)
            if begin < end:
                span = (begin - segment.start, end - segment.start)
                self._fill(segment, *span, out[begin - first : end - first])
        return Gathered({"payload": out.view(np.uint8)})

    def within(self, blocks: Gathered, batch: Window, window: Window) -> dict[str, Any]:
        """The elements of a window inside those of the batch that was read."""
        flat = blocks.views["payload"]
        bytes_ = self._values.itemsize * self.tensor.unit_elems
        begin, end = (window.start - batch.start) * bytes_, (window.stop - batch.start) * bytes_
        return {"payload": flat[begin:end]}

    @property
    def read_bytes(self) -> int:
        """Bytes of the sources' blocks read so far."""
        counts: list[int] = [w.read_bytes for _, w in self._open.values()]
        return self._closed_bytes + sum(counts)

    def spans(self) -> list[SpanCrc]:
        """None: nothing is read in order."""
        return []

    def _source(self, number: int) -> Fill:
        found = self._open.pop(number, None)
        if found is None:
            if len(self._open) >= self.tensor.together:
                oldest = next(iter(self._open))
                self._closed_bytes += self._open.pop(oldest)[1].read_bytes
            found = self._open_source(number)
        self._open[number] = found
        return found[0]

    def _fill(self, segment: Segment, first: int, stop: int, out: Any) -> None:
        """Elements `[first, stop)` of a segment into `out`."""
        done = 0
        for prefix, lo, hi in cover(segment.dims, first, stop):
            axis = len(prefix)
            box = (hi - lo, *segment.dims[axis + 1 :])
            count = int(np.prod(box, dtype=np.int64))
            target = out[done : done + count].reshape(box)
            done += count
            for part in segment.parts:
                self._part(part, prefix, (lo, hi), target)

    def _part(self, part: Part, prefix: Sequence[int], span: tuple[int, int], target: Any) -> None:
        """What of a box a part has: `prefix` fixes the first axes, `span` is along the next."""
        axis = len(prefix)
        if any(not a <= i < b for i, a, b in zip(prefix, part.lo, part.hi, strict=False)):
            return
        lo, hi = max(span[0], part.lo[axis]), min(span[1], part.hi[axis])
        if lo >= hi:
            return
        base = part.base + (lo - part.lo[axis]) * part.strides[axis]
        for i, a, stride in zip(prefix, part.lo, part.strides, strict=False):
            base += (i - a) * stride
        inner = [slice(a, b) for a, b in zip(part.lo[axis + 1 :], part.hi[axis + 1 :], strict=True)]
        place = target[(slice(lo - span[0], hi - span[0]), *inner)]
        fill = self._source(part.source)
        if place.ndim == 1 and part.strides[axis] == 1 and place.flags.c_contiguous:
            fill(base, place)
            return
        kind = target.dtype

        def read(element: int, buffer: Any) -> None:
            fill(element, buffer.view(kind))

        gather(read, base, place.shape, tuple(part.strides[axis:]), place)


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
    """From the gathered elements to the values of a step: the value operation, and one rounding."""
    tensor = step.tensor
    assert isinstance(tensor, Derived)
    kind = np.dtype(OUT.get(step.dtype) or DTYPES[step.dtype].numpy)
    if not tensor.value:
        return lambda views, window: views["payload"].view(kind)
    change = VALUES[tensor.value].apply
    narrow = decoder("f32")
    out = aligned(step.window_units * tensor.unit_elems, kind) if kind != np.float32 else None

    def run(views: Any, window: Window) -> Any:
        work = views["payload"].view(np.float32)
        with np.errstate(all="ignore"):
            change(work)
            if out is None:
                return work
            values = out[: len(work)]
            if kind == np.float16:
                values[:] = work
            else:
                narrow({"payload": views["payload"]}, {}, window, values)
        return values

    return run
