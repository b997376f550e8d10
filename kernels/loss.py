"""What encoding lost: a window's numbers against what they were encoded to.

The sums are those of `diff`; here is the count of numbers past the ends of their groups (`ends`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels.diff import Comparison, Sums
from anamnesis.kernels.ends import Ends

_clipped = variants("loss:clipped")
_clipped_in_rows = kernel("loss:clipped_in_rows")


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
