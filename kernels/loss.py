"""What encoding lost: a window's numbers against what they were encoded to.

The sums are those of `diff`; here is the count of numbers past the ends of their groups (`ends`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._jit import jit, variants
from anamnesis.kernels.diff import Comparison, Sums
from anamnesis.kernels.ends import Ends


@variants
def _clipped(size: int) -> Any:
    """`(values, low, high, count)`: numbers past the ends of groups of `size`, a constant."""

    def run(values: Any, low: Any, high: Any, count: Any) -> None:
        for g in range(low.shape[0]):
            least, most, here = low[g], high[g], np.int32(0)
            for i in range(size):
                value = values[g * size + i]
                here += np.int32(value < least) + np.int32(value > most)
            count[0] += here

    return run


@jit
def _clipped_in_rows(values: Any, columns: Any, size: Any, low: Any, high: Any, count: Any) -> None:
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


def clipped(values: Any, ends: Ends) -> int:
    """How many flat float32 numbers lie past the ends of their groups."""
    count, size = np.zeros(1, np.int64), ends.size
    if size in (16, 32, 64, 128) and len(values) == size * len(ends.low):
        _clipped(size)(values, ends.low, ends.high, count)
    else:
        _clipped_in_rows(values, ends.columns, size, ends.low, ends.high, count)
    return int(count[0])


class Lost(NamedTuple):
    """The sums of so many windows; `clipped` numbers lay past the end of their group."""

    sums: Sums = Sums()
    clipped: int = 0

    def __add__(self, more: Lost) -> Lost:  # type: ignore[override]
        """Both together. The order of additions is the caller's, and counts in the last bits."""
        return Lost(self.sums + more.sums, self.clipped + more.clipped)


class Losses:
    """Sums that grow window by window; equal windows give equal bits."""

    def __init__(self) -> None:
        self._comparison = Comparison()
        self._clipped = 0

    def add(self, values: Any, encoded: Any, ends: Ends) -> None:
        """Compare flat float32 numbers with what they were encoded to."""
        self._comparison.add(values, encoded)
        self._clipped += clipped(values, ends)

    def result(self) -> Lost:
        """The sums so far."""
        return Lost(self._comparison.result(), self._clipped)
