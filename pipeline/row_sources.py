"""A derived tensor by rows of codes: records alone, nothing is read here.

Codes can be moved where every row of what comes out is a row of codes of one source. That is so for
rows that are permuted, cut, stacked or alternating, and for gpt-oss' experts, whose matrices are
transposed but whose codes lie along the inputs: those are looked at as they are stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from anamnesis.names.derived import Derived, Part, Segment
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.placement import Contiguous


class RowSources(NamedTuple):
    """A derived tensor by rows of codes: `segments` are over `sources`, in elements."""

    sources: tuple[Tensor, ...]
    segments: tuple[Segment, ...]
    columns: int


def row_sources(tensor: Derived) -> RowSources | None:
    """A derived tensor by rows; None where a row of it is none of a source's codes."""
    if tensor.changed:
        return None
    columns = tensor.shape[-1]
    sources = tuple(map(as_stored, tensor.sources))
    segments = tuple(
        replace(
            segment, parts=tuple(_transposed(tensor.sources[p.source], p) for p in segment.parts)
        )
        for segment in tensor.segments
    )
    alike = {(s.encoding, s.scheme, s.shape[-1]) for s in sources}
    whole = all(
        _is_whole(part, segment.dims, columns) for segment in segments for part in segment.parts
    )
    if len(alike) > 1 or sources[0].shape[-1] != columns or not whole:
        return None
    return RowSources(sources, segments, columns)


def as_stored(tensor: Tensor) -> Tensor:
    """The same codes with their rows as rows; others as they are."""
    if tensor.encoding != "fp4-mx-columns":
        return tensor
    experts, inputs, outputs = tensor.shape
    components = tuple(
        Component(c.role, c.stored, Contiguous(8 * c.stored.nbytes // (experts * outputs)))
        for c in tensor.components
    )
    return replace(
        tensor,
        shape=(experts, outputs, inputs),
        encoding="fp4-mx",
        components=components,
        unit_elems=inputs,
        unit_multiple=1,
        orientation="as-stored",
    )


def _transposed(source: Tensor, part: Part) -> Part:
    """A part of a source in the elements of `as_stored`."""
    if source.encoding != "fp4-mx-columns":
        return part
    _, inputs, outputs = source.shape

    def transposed(elems: int) -> int:
        matrix, rest = divmod(elems, inputs * outputs)
        row, column = divmod(rest, outputs)
        return matrix * inputs * outputs + column * inputs + row

    return replace(part, base=transposed(part.base), strides=tuple(map(transposed, part.strides)))


def _is_whole(part: Part, dims: tuple[int, ...], columns: int) -> bool:
    """Whether every row of a part is a row of its source."""
    outer = [
        s
        for s, lo, hi in zip(part.strides[:-1], part.lo[:-1], part.hi[:-1], strict=True)
        if hi - lo > 1
    ]
    ends = (dims[-1], part.lo[-1], part.hi[-1], part.base, *outer)
    return part.strides[-1] == 1 and not any(n % columns for n in ends)
