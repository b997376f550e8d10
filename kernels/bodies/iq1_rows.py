"""Bodies of `kernels/iq1_rows.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.bodies.bits import f16_bits_to_f32
from anamnesis.kernels.types import Array, Bytes, Floats

_SHIFT = np.float32(0.125)


@jit
def rows(groups: Bytes, halves: bool, grid: Floats, out: Array) -> None:
    """Groups of four rows, with scales of halves of a run or not; `grid` is `[points, 8]`."""
    size = 28 if halves else 24
    count = (groups.shape[1] - 8) // size
    for group in range(groups.shape[0]):
        line = groups[group]
        for row in range(4):
            d = f16_bits_to_f32(np.uint32(line[2 * row]) | np.uint32(line[2 * row + 1]) << 8)
            for block in range(count):
                at = 8 + block * size
                for i in range(4):
                    half = i >> 1
                    low = np.int64(line[at + 4 * i + row])
                    if halves:
                        # Three bits and the shift's sign of two points in a byte.
                        high = np.int64(line[at + 16 + 4 * half + row]) >> 4 * (i & 1)
                        negative = high & 8
                        scale = np.int64(line[at + 24 + row]) >> 4 * half & 15
                    else:
                        # Three bits of each point, three of the scale, the shift's sign.
                        word = np.int64(line[at + 16 + 2 * row])
                        word |= np.int64(line[at + 17 + 2 * row]) << 8
                        high, negative = word >> 3 * i, word >> 15
                        scale = 2 * (word >> 12 & 7) + 1
                    point = grid[low | (high & 7) << 8]
                    shift = -_SHIFT if negative else _SHIFT
                    factor = d * np.float32(scale)
                    to = ((group * 4 + row) * count + block) * 32 + 8 * i
                    for j in range(8):
                        put(out, to + j, factor * (point[j] + shift))
