"""Bodies of `kernels/encode_bnb.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Array


@jit
def four_bits(
    values: Array, scales: Array, block: int, bounds: Array, order: Array, out: Array
) -> None:
    """4-bit codes in pairs: how many of fifteen `bounds` a scaled value is above, in `order`."""
    low, high = np.float32(-1), np.float32(1)
    for b in range(scales.shape[0]):
        scale = scales[b]
        for i in range(b * (block // 2), (b + 1) * (block // 2)):
            codes = 0
            for j in range(2):
                value = values[2 * i + j] * scale
                value = low if value < low else value
                value = high if value > high else value
                count = 0
                for k in range(15):
                    count += 0 if bounds[k] >= value else 1
                # The first element is the high half.
                codes = codes << 4 | order[count]
            out[i] = codes


@jit
def rows_of_bytes(values: Array, factors: Array, columns: int, out: Array) -> None:
    """Values times their row's factor, to int8; NaN is 0."""
    for row in range(factors.shape[0]):
        for i in range(row * columns, (row + 1) * columns):
            code = values[i] * factors[row]
            # 1.5 * 2**23, whose last place is 1: to nearest, ties to even.
            code = (code + np.float32(12582912)) - np.float32(12582912)
            out[i] = np.int8(code) if code == code else np.int8(0)
