"""Bodies of `kernels/spqr.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._codes import to_half
from anamnesis.kernels.bodies._jit import inline, jit, put
from anamnesis.kernels.bodies.bits import f16_bits_to_f32
from anamnesis.kernels.spqr import TILE
from anamnesis.kernels.types import Array, Floats, Integer, Ints, Longs, Real, Words

_u64 = np.uint64


@jit
def rows(
    words: Longs,
    offsets: Ints,
    outliers: Words,
    order: Ints,
    second: Floats,
    room: Floats,
    settings: tuple[int, bool, bool],
    out: Array,
) -> None:
    """Rows of tiles, `settings` the first one's number, `by_tile` and whether to round to binary16.

    `second` is room for the four numbers of each tile, `room` for a row.
    """
    first, by_tile, narrow = settings
    inputs = order.shape[0]
    for unit in range(words.shape[0]):
        line = words[unit]
        _second_order(line, second)
        for k in range(TILE):
            for tile in range(second.shape[0]):
                _row(line[tile * TILE + k], second[tile], narrow, room, tile * TILE)
            number, step = first + unit, TILE
            begin = offsets[number] + k
            if not by_tile:
                number, step = number * TILE + k, 1
                begin = offsets[number]
            for i in range(begin, offsets[number + 1], step):
                # A column in the lower half, a binary16 in the upper.
                room[outliers[i] & 0xFFFF] += f16_bits_to_f32(outliers[i] >> 16)
            at = (unit * TILE + k) * inputs
            for i in range(inputs):
                put(out, at + order[i], to_half(room[i]) if narrow else room[i])


@jit
def _second_order(line: Longs, second: Floats) -> None:
    """Four binary16 numbers of each tile, a byte of them in the upper bits of two words."""
    for tile in range(second.shape[0]):
        joined = _u64(0)
        for k in range(TILE):
            joined |= line[tile * TILE + k] >> _u64(54) << _u64(8 * (k // 2))
        for i in range(4):
            second[tile, i] = f16_bits_to_f32(joined >> _u64(16 * i) & _u64(0xFFFF))


@jit
def _row(word: Integer, second: Floats, narrow: bool, room: Floats, at: int) -> None:
    """The 16 numbers of a word, from `at` on."""
    # Scales of scales and of zeros, then the zeros of both; codes of 3 bits from the lowest on.
    scale = _affine(word & _u64(7), second[2], second[0], narrow)
    zero = _affine(word >> _u64(3) & _u64(7), second[3], second[1], narrow)
    for j in range(TILE):
        code = word >> _u64(6 + 3 * j) & _u64(7)
        room[at + j] = _affine(code, zero, scale, narrow)


@inline
def _affine(code: Integer, zero: Real, scale: Real, narrow: bool) -> Real:
    """`(code - zero) * scale`, each rounded to float32, or to binary16."""
    distance = np.float32(code) - zero
    if narrow:
        return to_half(to_half(distance) * scale)
    return distance * scale
