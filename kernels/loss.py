"""What encoding lost: a window's numbers against what they were encoded to.

The sums are those of `diff`; here is the count of numbers past the ends of their groups (`ends`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anamnesis.kernels._native import kernel
from anamnesis.kernels.diff import Comparison, Sums
from anamnesis.kernels.ends import Ends
from anamnesis.kernels.types import Array, Floats

_clipped = kernel("loss:clipped")


def clipped(values: Array, ends: Ends) -> int:
    """How many flat numbers, float32 or BF16's bits, lie past the ends of their groups."""
    count = np.zeros(1, np.int64)
    if not len(ends.low):  # NO_ENDS
        return 0
    _clipped(values, ends.columns, ends.size, ends.low, ends.high, count)
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

    def add(self, values: Array, encoded: Floats, ends: Ends) -> None:
        """Compare flat numbers, float32 or BF16's bits, with the float32 they were encoded to."""
        self._comparison.add(values, encoded)
        self._clipped += clipped(values, ends)

    def result(self) -> Lost:
        """The sums so far."""
        return Lost(self._comparison.result(), self._clipped)
