"""Bodies of `kernels/loss.py`: numbers past the ends of their groups, counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import jit, variants
from anamnesis.kernels.types import Array


@variants
def clipped(size: int) -> Any:
    """`(values, low, high, count)`: numbers past the ends of groups of `size`, a constant."""

    def run(values: Array, low: Array, high: Array, count: Array) -> None:
        for g in range(low.shape[0]):
            least, most, here = low[g], high[g], np.int32(0)
            for i in range(size):
                value = values[g * size + i]
                here += np.int32(value < least) + np.int32(value > most)
            count[0] += here

    return run


@jit
def clipped_in_rows(
    values: Array, columns: int, size: int, low: Array, high: Array, count: Array
) -> None:
    """The same for groups of any size, which may be cut off at the end of a row."""
    groups = -(-columns // size)
    for g in range(low.shape[0]):
        row, place = g // groups, g % groups
        begin = row * columns + place * size
        end = min(row * columns + min(columns, (place + 1) * size), values.shape[0])
        least, most, here = low[g], high[g], np.int32(0)
        for i in range(begin, end):
            here += np.int32(values[i] < least) + np.int32(values[i] > most)
        count[0] += here
