"""Bodies of `kernels/loss.py`: numbers past the ends of their groups, counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._lane_memory import lanes, number
from anamnesis.kernels.bodies._lanes import choose, splat, sum_of
from anamnesis.kernels.types import Array, Floats


@jit
def clipped(values: Array, columns: int, size: int, low: Array, high: Array, count: Array) -> None:
    """Numbers past the ends of groups of `size`, which may be cut off at the end of a row."""
    past, g = splat(0), 0
    for first in range(0, values.shape[0], columns):
        row_end = min(first + columns, values.shape[0])
        for begin in range(first, row_end, size):
            end = min(begin + size, row_end)
            rest = end - (end - begin) % 16
            least, most = splat(low[g]), splat(high[g])
            for i in range(begin, rest, 16):
                past = past + _outside(lanes(values, i), least, most)
            for i in range(rest, end):
                value = number(values, i)
                count[0] += np.int64(value < low[g]) + np.int64(value > high[g])
            g += 1
    count[0] += sum_of(past)


@inline
def _outside(numbers: Floats, least: Floats, most: Floats) -> Any:
    return choose(numbers < least, splat(1), choose(numbers > most, splat(1), splat(0)))
