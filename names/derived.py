"""A tensor that is other tensors' elements in another order: records only, nothing is read here.

The output is cut into *segments*, flat ranges of it that follow one another. A segment is a box of
`dims`; each of its parts is a smaller box of those, whose elements lie in one source with a stride
an axis. Slices, gathers of rows, transposes, stacks and concatenations are all of this form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.record import record

UNIT_ELEMS = 1 << 19  # a window of BF16 values has twice as many


@dataclass(frozen=True, slots=True)
class Part:
    """Elements `[lo, hi)` along each axis of a segment, out of `source`.

    Element `index` is the source's flat element `base + sum((index - lo) * strides)`.
    """

    source: int
    lo: tuple[int, ...]
    hi: tuple[int, ...]
    base: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """The output's elements from `start` on, as a box of `dims` in row-major order.

    `value` is what is done to each, in the words of `names.values`, or "".
    """

    start: int
    dims: tuple[int, ...]
    parts: tuple[Part, ...]
    value: str = ""

    @property
    def elems(self) -> int:
        return math.prod(self.dims)


@record(frozen=True, slots=True)
class Derived(Tensor):
    """A logical tensor made of the elements of `sources`.

    Elements of no segment are zero. Units are rows of the innermost axes that lie together; windows
    of any length may start at any of them.
    """

    sources: tuple[Tensor, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether something is done to the numbers, besides moving them."""
        return any(segment.value for segment in self.segments)

    @property
    def matrix_units(self) -> int:
        """Windows need not end with a matrix: sources are read by element."""
        return 0

    @property
    def stored_bytes(self) -> int:
        """Bytes of the sources that belong to this tensor, in proportion to their elements."""
        used = [0] * len(self.sources)
        for segment in self.segments:
            for part in segment.parts:
                box = (hi - lo for lo, hi in zip(part.lo, part.hi, strict=True))
                used[part.source] += math.prod(box)
        return sum(
            source.stored_bytes * count // max(1, source.elems)
            for source, count in zip(self.sources, used, strict=True)
        )

    @property
    def scattered(self) -> bool:
        """Whether neighbours in the output lie apart in a source, as in a transposed matrix."""
        parts = (part for segment in self.segments for part in segment.parts)
        return any(part.strides and part.strides[-1] > 1 for part in parts)

    @property
    def together(self) -> int:
        """Most sources that one segment needs."""
        return max((len({p.source for p in s.parts}) for s in self.segments), default=0)


def derive(
    name: str,
    shape: tuple[int, ...],
    sources: tuple[Tensor, ...],
    segments: tuple[Segment, ...],
) -> Tensor:
    """The tensor `name`: a `Derived`, or a plain one where the elements lie in order in one source.

    Its scheme, and the dtype it has when none is asked for, are those of its sources. A source that
    is derived itself is seen through where its elements are those of one other in some order.
    """
    sources, segments = _seen_through(sources, segments)
    segments = _fused([_merged(segment) for segment in segments])
    plain = _plain(name, shape, sources, segments)
    if plain is not None:
        return plain
    kind = next((s for s in sources if s.quantised), sources[0])
    return Derived(
        name=name,
        shape=shape,
        scheme=kind.scheme,
        encoding="derived",
        components=tuple(c for source in sources for c in source.components),
        unit_elems=_unit(shape, segments),
        out_dtype=kind.out_dtype,
        sources=sources,
        segments=segments,
    )


def after_zeros(tensor: Tensor, rows: int) -> Tensor:
    """The tensor with so many rows of zeros before its own; it must be a plain matrix."""
    if isinstance(tensor, Derived):
        raise ValueError(f"{tensor.name!r:.200}: is derived already")
    count, width = tensor.shape
    part = Part(0, (0,), (count * width,), 0, (1,))
    segments = (Segment(rows * width, (count * width,), (part,)),)
    return derive(tensor.name, (count + rows, width), (tensor,), segments)


def without_rows(tensor: Tensor, rows: int) -> Tensor:
    """The tensor from row `rows` on; it must be a plain matrix that has more."""
    count, width = tensor.shape
    if isinstance(tensor, Derived) or not 0 <= rows < count:
        raise ValueError(f"{tensor.name!r:.200}: cannot do without {rows} of {count} rows")
    elems = (count - rows) * width
    segments = (Segment(0, (elems,), (Part(0, (0,), (elems,), rows * width, (1,)),)),)
    return derive(tensor.name, (count - rows, width), (tensor,), segments)


def row_of(tensor: Tensor, row: int, name: str) -> Tensor:
    """A row of a matrix as a vector `name`; ValueError for one that it does not have."""
    if len(tensor.shape) != 2 or not 0 <= row < tensor.shape[0]:
        raise ValueError(f"{tensor.name!r:.200} {list(tensor.shape)}: has no row {row}")
    width = tensor.shape[1]
    part = Part(0, (0,), (width,), row * width, (1,))
    return derive(name, (width,), (tensor,), (Segment(0, (width,), (part,)),))


def transposed(tensor: Tensor) -> Tensor:
    """A matrix, or each of a stack, with its columns as rows: a unit each of what is derived.

    One that is derived is made of the same sources, where its axes can be told apart.
    """
    *lead, rows, columns = tensor.shape
    shape = (*lead, columns, rows)
    found = _transposed(tensor, shape) if isinstance(tensor, Derived) else None
    if found is None:
        matrices = math.prod(lead)
        strides = (rows * columns, 1, columns)
        part = Part(0, (0, 0, 0), (matrices, columns, rows), 0, strides)
        segments = (Segment(0, (matrices, columns, rows), (part,)),)
        found = derive(tensor.name, shape, (tensor,), segments)
    # What is a plain tensor again, as it was before it was transposed, has units of its own.
    return replace(found, unit_elems=rows) if isinstance(found, Derived) else found


def _transposed(tensor: Derived, shape: tuple[int, ...]) -> Tensor | None:
    """A derived tensor transposed, of its own sources; None where an axis is part of both."""
    if len(tensor.segments) != 1 or tensor.segments[0].elems != tensor.elems:
        return None
    segment, rows, columns = tensor.segments[0], shape[-1], shape[-2]
    sizes = [math.prod(segment.dims[at:]) for at in range(len(segment.dims) + 1)]
    if columns not in sizes or rows * columns not in sizes:
        return None
    first, middle = sizes.index(rows * columns), sizes.index(columns)

    def transposed(axes: tuple[int, ...]) -> tuple[int, ...]:
        return (*axes[:first], *axes[middle:], *axes[first:middle])

    parts = tuple(
        replace(p, lo=transposed(p.lo), hi=transposed(p.hi), strides=transposed(p.strides))
        for p in segment.parts
    )
    segments = (Segment(0, transposed(segment.dims), parts, segment.value),)
    return derive(tensor.name, shape, tensor.sources, segments)


def _seen_through(
    sources: tuple[Tensor, ...], segments: tuple[Segment, ...]
) -> tuple[tuple[Tensor, ...], tuple[Segment, ...]]:
    """The same elements out of what derived sources are made of; as it is where that is no box."""
    boxes = {n: box for n, source in enumerate(sources) if (box := _whole(source)) is not None}
    made = []
    for segment in segments if boxes else ():
        found = [_through(boxes[p.source], p) if p.source in boxes else p for p in segment.parts]
        parts = tuple(p for p in found if p is not None)
        if len(parts) < len(found):
            return sources, segments
        made.append(replace(segment, parts=parts))
    if not boxes:
        return sources, segments
    inner = (
        s.sources[0] if n in boxes and isinstance(s, Derived) else s for n, s in enumerate(sources)
    )
    return tuple(inner), tuple(made)


def _whole(tensor: Tensor) -> Segment | None:
    """The one box that a derived tensor is, of one source as it is; None for others."""
    if not isinstance(tensor, Derived) or len(tensor.segments) != 1 or tensor.changed:
        return None
    segment = tensor.segments[0]
    one = len(tensor.sources) == len(segment.parts) == 1
    return segment if one and segment.elems == tensor.elems else None


def _through(box: Segment, part: Part) -> Part | None:
    """A part of a tensor, which is this box of one source, out of that; None where it is no box."""
    inner = box.parts[0]
    rows = [math.prod(box.dims[axis + 1 :]) for axis in range(len(box.dims))]
    base, first = inner.base, []
    for axis, row in enumerate(rows):
        first.append(part.base // row % box.dims[axis])
        base += first[-1] * inner.strides[axis]
    last, strides = list(first), []
    for lo, hi, stride in zip(part.lo, part.hi, part.strides, strict=True):
        axis = next((a for a, row in enumerate(rows) if row <= stride), len(rows) - 1)
        steps, rest = divmod(stride, rows[axis])
        last[axis] += steps * (hi - lo - 1)
        if rest and hi - lo > 1:
            return None
        strides.append(steps * inner.strides[axis])
    if any(end >= size for end, size in zip(last, box.dims, strict=True)):
        return None
    return replace(part, base=base, strides=tuple(strides))


def _merged(segment: Segment) -> Segment:
    """Neighbouring axes become one where every part goes over both in steps of the inner one.

    The box of a scalar, which has none, gets one of one element.
    """
    dims = list(segment.dims) or [1]
    parts = [[list(p.lo) or [0], list(p.hi) or [1], list(p.strides) or [1]] for p in segment.parts]
    axis = len(dims) - 2
    while axis >= 0:
        inner = dims[axis + 1]
        if all(_mergeable(part, axis, inner) for part in parts):
            for lo, hi, strides in parts:
                lo[axis : axis + 2] = [lo[axis] * inner]
                hi[axis : axis + 2] = [hi[axis] * inner]
                strides[axis : axis + 2] = [strides[axis + 1] if inner > 1 else strides[axis]]
            dims[axis : axis + 2] = [dims[axis] * inner]
        axis -= 1
    made = tuple(
        Part(p.source, tuple(lo), tuple(hi), p.base, tuple(strides))
        for p, (lo, hi, strides) in zip(segment.parts, parts, strict=True)
    )
    return replace(segment, dims=tuple(dims), parts=made)


def _fused(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Runs of one source that follow one another there, and are treated alike, as one run."""
    out: list[Segment] = []
    for segment in segments:
        before = out[-1] if out else None
        if before is not None and _is_run(before) and _is_run(segment):
            (first,), (second,) = before.parts, segment.parts
            follows = (second.source, second.base) == (first.source, first.base + before.elems)
            if follows and (segment.start, segment.value) == (
                before.start + before.elems,
                before.value,
            ):
                count = before.elems + segment.elems
                out[-1] = replace(before, dims=(count,), parts=(replace(first, hi=(count,)),))
                continue
        out.append(segment)
    return tuple(out)


def _is_run(segment: Segment) -> bool:
    """Whether a segment is one part, whose elements lie in order."""
    return len(segment.dims) == 1 and [p.strides for p in segment.parts] == [(1,)]


def _mergeable(part: list[list[int]], axis: int, inner: int) -> bool:
    lo, hi, strides = part
    if lo[axis + 1] != 0 or hi[axis + 1] != inner:
        return False
    if inner == 1:
        return True
    return hi[axis] - lo[axis] == 1 or strides[axis] == strides[axis + 1] * inner


def _plain(
    name: str,
    shape: tuple[int, ...],
    sources: tuple[Tensor, ...],
    segments: tuple[Segment, ...],
) -> Tensor | None:
    """A tensor that is a run of one source: the source itself, or a part of its bytes."""
    if len(sources) != 1 or len(segments) != 1 or len(segments[0].parts) != 1:
        return None
    if segments[0].value:
        return None
    if segments[0].elems != math.prod(shape):
        return None
    part, source = segments[0].parts[0], sources[0]
    if isinstance(source, Derived) or len(segments[0].dims) != 1:
        return None
    if part.strides != (1,) and segments[0].elems > 1:
        return None
    count = math.prod(shape)
    if part.base == 0 and count == source.elems:
        return replace(source, name=name, shape=shape)
    return _run_of(name, shape, source, part.base)


def _run_of(name: str, shape: tuple[int, ...], source: Tensor, first: int) -> Tensor | None:
    """The elements from `first` on as a tensor of their own, where whole units lie in one place."""
    if len(source.components) != 1 or source.params:
        return None
    component = source.components[0]
    stored, placement = component.stored, component.placement
    count = math.prod(shape)
    unit = source.unit_elems * source.unit_multiple
    if not isinstance(placement, Contiguous) or stored.view is not None:
        return None
    if first % unit or count % unit:
        return None
    begin = first // source.unit_elems * placement.unit_bits
    nbytes = count // source.unit_elems * placement.unit_bits
    if begin % 8 or nbytes % 8:
        return None
    piece = replace(stored, offset=stored.offset + begin // 8, nbytes=nbytes // 8, shape=shape)
    components = (Component(component.role, piece, placement),)
    return replace(source, name=name, shape=shape, components=components)


def _unit(shape: tuple[int, ...], segments: tuple[Segment, ...]) -> int:
    """Elements at whose multiples windows should start: the innermost axes that fit in one."""
    if len(segments) != 1:
        return max(1, shape[-1] if shape else 1)
    unit = 1
    for size in reversed(segments[0].dims):
        if unit * size > UNIT_ELEMS:
            break
        unit *= size
    return unit
