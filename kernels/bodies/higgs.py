"""Bodies of `kernels/higgs.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._butterflies import along_line
from anamnesis.kernels.bodies._jit import inline, jit, put
from anamnesis.kernels.higgs import PER_WORD_ROW
from anamnesis.kernels.types import Array, Doubles, Floats, Integer, Words

_TWO, _THREE, _FOUR = (PER_WORD_ROW[bits] for bits in (2, 3, 4))


@jit
def rows(
    words: Words,
    rest: Words,
    table: Floats,
    scales: Floats,
    settings: tuple[int, int, int],
    room: Doubles,
    out: Array,
) -> None:
    """Whole chunks, `settings` the bits of a code, the tile, and the size of the rotation."""
    bits, tile, size = settings
    inputs = room.shape[0]
    group = inputs // scales.shape[1]
    count = _FOUR if bits == 4 else _TWO if bits == 2 else _THREE
    mask = np.uint32((1 << 2 * bits) - 1)  # of the codes of two inputs
    root = np.sqrt(np.float64(size))
    for line in range(words.shape[0]):
        chunk, place = line // tile, line % tile
        for j in range(count):
            row = (chunk * count + j) * tile + place
            for k in range(inputs // 2):
                if bits == 3:
                    # Rows of the second words of a chunk, then of the third.
                    second = rest[2 * chunk * tile + place, k]
                    third = rest[(2 * chunk + 1) * tile + place, k]
                    pair = _of_three(words[line, k], second, third, j)
                else:
                    pair = words[line, k] >> np.uint32(2 * bits * j) & mask
                for i in range(2):
                    scale = np.float64(scales[row, (2 * k + i) // group])
                    room[2 * k + i] = np.float64(table[pair, i]) * scale
            for start in range(0, inputs, size):
                along_line(room[start : start + size], size)
            for i in range(inputs):
                put(out, row * inputs + i, np.float32(room[i] / root))


@inline
def _of_three(first: Integer, second: Integer, third: Integer, j: int) -> Integer:
    """Pair `j` of three words: five of each, and a last one of the two bits above them."""
    if j == 15:
        return (
            first >> np.uint32(30)
            | second >> np.uint32(30) << np.uint32(2)
            | (third >> np.uint32(30) << np.uint32(4))
        )
    word = first if j % 3 == 0 else second if j % 3 == 1 else third
    return word >> np.uint32(6 * (j // 3)) & np.uint32(63)
