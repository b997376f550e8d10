"""Bodies of `kernels/encode_bnb.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, local, stack
from anamnesis.kernels.bodies._lanes import (
    choose,
    lanes,
    put_bytes,
    put_pairs_back,
    put_some,
    some,
    splat,
    wholes,
)
from anamnesis.kernels.types import Array

_room, _codes = stack(64), stack(64)


@inline
def _four(numbers: Any, bounds: Any, order: Any) -> Any:
    """The code at the place of each number among fifteen `bounds`; the last one of NaN."""
    low, high = splat(np.float32(-1)), splat(np.float32(1))
    numbers = choose(numbers < low, low, numbers)
    numbers = choose(numbers > high, high, numbers)
    code = splat(np.int32(order[0]))
    for k in range(15):
        code = choose(numbers <= splat(bounds[k]), code, splat(np.int32(order[k + 1])))
    return code


@jit
def four_bits(
    values: Array, scales: Array, block: int, bounds: Array, order: Array, out: Array
) -> None:
    """4-bit codes in pairs: how many of fifteen `bounds` a scaled value is above, in `order`."""
    room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.uint8)
    for b in range(scales.shape[0]):
        scale, end = scales[b], (b + 1) * block
        rest = end - block % 16
        for i in range(b * block, rest, 16):
            # The first element is the high half.
            put_pairs_back(out, i // 2, _four(lanes(values, i) * scale, bounds, order))
        if rest < end:
            put_pairs_back(codes, 0, _four(some(values, rest, end, room) * scale, bounds, order))
            for i in range((end - rest) // 2):
                out[rest // 2 + i] = codes[i]


@inline
def _byte(numbers: Any, factor: Any) -> Any:
    """Products, at most 127 in magnitude, to nearest, ties to even; 0 of NaN."""
    # 1.5 * 2**23, whose last place is 1.
    found = (numbers * factor + np.float32(12582912)) - np.float32(12582912)
    return wholes(choose(found == found, found, splat(np.float32(0))))


@jit
def rows_of_bytes(values: Array, factors: Array, columns: int, out: Array) -> None:
    """Values times their row's factor, to int8, as bytes; NaN is 0."""
    room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
    for row in range(factors.shape[0]):
        end = (row + 1) * columns
        rest = end - columns % 16
        for i in range(row * columns, rest, 16):
            put_bytes(out, i, _byte(lanes(values, i), factors[row]))
        if rest < end:
            put_some(out, rest, end, _byte(some(values, rest, end, room), factors[row]), codes)
