"""How far groups of ggml's types reach, from their blocks; `ends` says what that is.

What is given here makes `ends_X` of an encoder: of types with one scale (`by_scale`), of K types
and IQ4_XS, whose groups have scales in a few bits (`by_codes`), and of codebooks with signs
(`by_grid`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anamnesis.kernels import ENCODINGS, Window, decoder
from anamnesis.kernels._grids import read
from anamnesis.kernels.ends import Ends, around, between
from anamnesis.kernels.readback import Facts, Parts
from anamnesis.kernels.types import Array

EndsOf = Callable[[Parts, Facts], Ends]
OfBlocks = Callable[[Array], Array]
_SUB_BLOCK = 16


def blocks_of(parts: Parts, facts: Facts) -> Array:
    """The blocks of a window, uint8 `[blocks, bytes]`."""
    return parts["blocks"].reshape(-1, ENCODINGS[facts.target].block_bytes)


def halves(data: Array) -> Array:
    """Binary16 numbers of rows of bytes, as float32 `[rows, numbers]`."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def by_scale(low: float, high: float, at: int = 0, biased: bool = False) -> EndsOf:
    """Of a type with one scale, binary16 at `at`: ends in scales, and whether a bias follows."""

    def ends(parts: Parts, facts: Facts) -> Ends:
        size = ENCODINGS[facts.target].block_elems
        numbers = halves(blocks_of(parts, facts)[:, at : at + (4 if biased else 2)])
        scale, bias = numbers[:, 0], numbers[:, 1] if biased else np.float32(0)
        return between(scale * np.float32(low) + bias, scale * np.float32(high) + bias, size, size)

    return ends


def by_codes(first: int, last: int, codes: int) -> EndsOf:
    """What blocks of the lowest and of the highest of `codes` codes decode to, and half a step.

    The bytes of a block from `first` to `last` hold codes.
    """

    def ends(parts: Parts, facts: Facts) -> Ends:
        data = blocks_of(parts, facts).copy()
        found = []
        for byte in (0x00, 0xFF):
            data[:, first:last] = byte
            out = np.empty(len(data) * ENCODINGS[facts.target].block_elems, np.float32)
            decoder(facts.target)({"payload": data}, {}, Window(0, len(data)), out)
            found.append(out[::_SUB_BLOCK])
        half = (found[1] - found[0]) / np.float32(2 * (codes - 1))
        return between(found[0] - half, found[1] + half, _SUB_BLOCK, _SUB_BLOCK)

    return ends


def by_grid(grid: str, scales: OfBlocks, size: int, one: float, more: float) -> EndsOf:
    """The greatest number of a codebook, and half the step to it from the one before.

    `scales` gives those of a block, `uint8 [blocks, 256 / size]`, and `one` and `more` are the
    factors of 1 and the scale.
    """

    def ends(parts: Parts, facts: Facts) -> Ends:
        data = blocks_of(parts, facts)
        levels = np.unique(read(grid)).astype(np.float32)
        last = levels[-1] + (levels[-1] - levels[-2]) / np.float32(2)
        factors = np.float32(one) + np.float32(more) * scales(data).astype(np.float32)
        return around(halves(data[:, :2]) * factors * last, 256, size)

    return ends


def top_bits(first: int, step: int, count: int) -> OfBlocks:
    """Scales in the upper half of every `step` bytes, the last of a run's word."""
    return lambda blocks: blocks[:, first::step][:, :count] >> 4


def nibbles(first: int) -> OfBlocks:
    """Two scales a byte up to the block's end, the low half first."""
    # Bits 0-3 the first of two, 4-7 the second.
    pairs = np.array([0, 4], np.uint8)
    return lambda blocks: (blocks[:, first:, None] >> pairs & 15).reshape(len(blocks), -1)
