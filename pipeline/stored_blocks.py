"""A derived tensor by the blocks that its sources store: records alone, nothing is read here.

Where every element that moves takes its whole block along, blocks are moved as they are read and
decoded in their new order, so that a permutation costs nothing besides the reads. That is so for
numbers of any order, which are a block each, and for rows of quantised ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from anamnesis.kernels import ENCODINGS
from anamnesis.names.derived import Derived, Part, Segment
from anamnesis.readers.base import Tensor
from anamnesis.readers.placement import Contiguous


class StoredBlocks(NamedTuple):
    """Segments in blocks of `block_elems` elements and `block_bytes` bytes.

    `tensor` is what the blocks of the output are, in their order, were they stored.
    """

    tensor: Tensor
    segments: tuple[Segment, ...]
    block_elems: int
    block_bytes: int


def stored_blocks(tensor: Derived, sources: tuple[Tensor, ...]) -> StoredBlocks | None:
    """A derived tensor of `sources`, which have the dtype that they are decoded to, by blocks.

    None where blocks would be cut, lie elsewhere than one after the other, or are no whole truth.
    """
    first = sources[0]
    block, bits = first.unit_elems, first.components[0].placement.unit_bits
    alike = all(
        (s.encoding, s.out_dtype, s.unit_elems) == (first.encoding, first.out_dtype, block)
        and _is_plain(s)
        for s in sources
    )
    whole = tensor.unit_elems % block == 0 and tensor.elems % block == 0
    covered = sum(segment.elems for segment in tensor.segments) == tensor.elems
    if not alike or bits % 8 or not whole or not covered:
        return None
    segments = tuple(_in_blocks(segment, block) for segment in tensor.segments)
    if None in segments:
        return None
    stored = replace(first, name=tensor.name, shape=tensor.shape)
    return StoredBlocks(stored, tuple(s for s in segments if s), block, bits // 8)


def _is_plain(source: Tensor) -> bool:
    """Whether a block of a source says all of its numbers, wherever it lies."""
    component = source.components[0]
    row = ENCODINGS.get(source.encoding)
    return (
        type(source) is Tensor
        and len(source.components) == 1
        and isinstance(component.placement, Contiguous)
        and component.stored.view is None
        and source.unit_multiple == 1
        and not source.params
        and not (row and row.prepare)
    )


def _in_blocks(segment: Segment, block: int) -> Segment | None:
    """A segment whose elements are blocks; None where one is cut."""
    if block == 1:
        return segment
    parts = tuple(_part_in_blocks(part, block) for part in segment.parts)
    if segment.start % block or segment.dims[-1] % block or None in parts:
        return None
    dims = (*segment.dims[:-1], segment.dims[-1] // block)
    return Segment(segment.start // block, dims, tuple(p for p in parts if p))


def _part_in_blocks(part: Part, block: int) -> Part | None:
    outer = zip(part.strides[:-1], part.lo[:-1], part.hi[:-1], strict=True)
    ends = (part.lo[-1], part.hi[-1], part.base, *(s for s, lo, hi in outer if hi - lo > 1))
    if part.strides[-1] != 1 or any(n % block for n in ends):
        return None
    return Part(
        part.source,
        (*part.lo[:-1], part.lo[-1] // block),
        (*part.hi[:-1], part.hi[-1] // block),
        part.base // block,
        (*(s // block for s in part.strides[:-1]), 1),
    )
