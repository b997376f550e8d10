"""What encoding lost: a window's numbers against what they were encoded to.

The sums are those of `diff`, taken in another order, with the count of numbers past the ends of
their groups (`ends`) in the same pass. Sixteen float32 lanes add up a block of `BLOCK` numbers,
products and sums rounded each; float64 lanes add up blocks. So the relative error of a sum is below
1e-5, and mostly 3e-7, and equal calls give the same bits on every machine; so do other cuts between
blocks. A block whose squares float32 does not hold, or that has what is not finite, is added number
by number in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._native import variants
from anamnesis.kernels.diff import Sums, as_float32, others, summed
from anamnesis.kernels.ends import Ends
from anamnesis.kernels.types import Array, Bytes, Floats

BLOCK = 2048
LEAST = 2.0**-110  # of a lane's sum of squares; what vanished in a block is below 2048 * 2**-149
FINITE, EQUAL, CLIPPED = range(3)
E4M3_END = 464.0  # 448, and half a step
_compared = variants("loss:compared")


class Lost(NamedTuple):
    """The sums of so many windows; `clipped` numbers lay past the end of their group."""

    sums: Sums = Sums()
    clipped: int = 0

    def __add__(self, more: Lost) -> Lost:  # type: ignore[override]
        """Both together. The order of additions is the caller's, and counts in the last bits."""
        return Lost(self.sums + more.sums, self.clipped + more.clipped)


class Codes(NamedTuple):
    """Stored bytes whose numbers and ends `form` tells, in groups of `size`, a multiple of 16.

    "e4m3" has a code a byte and `scales`, float32, for every group in turn; "int8" too, and three
    factors as `table`: of the ends below and above, and of all numbers. "q4-0", "q4-1" and "q8-0"
    are ggml's blocks.
    "pairs" and "pairs-back" have two codes a byte, the first in the low or in the high half, with
    `scales` and `table`: the sixteen numbers of codes, and the ends below and above.
    """

    form: str
    stored: Bytes
    size: int
    scales: Floats = np.empty(0, np.float32)
    table: Floats = np.empty(0, np.float32)


class Losses:
    """Sums that grow window by window; equal windows give equal bits."""

    def __init__(self) -> None:
        self._state: Any = np.zeros((6, 16))
        self._counts: Any = np.zeros(3, np.int64)
        self._rest = Sums()

    def add(self, values: Array, encoded: Floats, ends: Ends) -> None:
        """Compare flat numbers, float32 or BF16's bits, with the float32 they were encoded to."""
        size, low, high = _by_steps(ends, len(values))
        self._add("plain", values, (encoded, size, low, high), lambda: encoded)

    def add_codes(self, values: Array, codes: Codes, decoded: Callable[[], Floats]) -> None:
        """The same of codes, which are decoded in registers, and again where not all is finite."""
        form, stored, size, scales, table = codes
        self._add(form, values, (stored, size, scales, table), decoded)

    def _add(
        self, form: str, values: Array, encoded: tuple[Any, ...], decoded: Callable[[], Floats]
    ) -> None:
        elems, before = len(values), int(self._counts[FINITE])
        if not elems:
            return
        _compared(form)(values, *encoded, self._state, self._counts)
        if int(self._counts[FINITE]) - before == elems:
            self._rest += Sums(elems=elems)
        else:
            self._rest += others(as_float32(values), decoded())

    def result(self) -> Lost:
        """The sums so far."""
        finite, equal, clipped = map(int, self._counts)
        return Lost(summed(self._state, finite, equal) + self._rest, clipped)


def _by_steps(ends: Ends, elems: int) -> tuple[int, Floats, Floats]:
    """Ends of groups of whole steps of sixteen numbers; where groups are others, of each number."""
    columns, size, low, high = ends
    if not len(low):  # NO_ENDS
        return 1 << 62, np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32)
    size = min(size, columns)
    if size == 1 or not (size % 16 or columns % size):
        return size, low, high
    rows = [np.repeat(side.reshape(-1, -(-columns // size)), size, axis=1) for side in (low, high)]
    first, last = (np.ascontiguousarray(row[:, :columns]).reshape(-1)[:elems] for row in rows)
    return 1, first, last
