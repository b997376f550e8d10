"""The sum of a float32 vector in torch's order, a stretch at a time.

`bodies/_cascade.py` says what that order is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Floats

LANES, ACCUMULATORS, LEVELS = 8, 4, 4
ROW = LANES * ACCUMULATORS
_add_rows = kernel("_cascade:add_rows")


class Cascade:
    """Adds up `count` numbers, given in order in stretches of a multiple of `ROW`, the last any."""

    def __init__(self, count: int) -> None:
        rows = count // ROW
        self._power = max(4, (rows - 1).bit_length() // LEVELS if rows > 1 else 0)
        self._steps = rows >> self._power << self._power
        self._rows = 0
        self._sums = np.zeros((LEVELS, ROW), np.float32)
        self._rest = np.empty(0, np.float32)

    def add(self, values: Floats) -> None:
        """The next numbers, a contiguous float32 array."""
        whole = len(values) // ROW * ROW
        _add_rows(values[:whole], self._rows, self._power, self._steps, self._sums)
        self._rows += whole // ROW
        self._rest = values[whole:].copy()

    def total(self) -> Any:
        """The sum, float32."""
        with np.errstate(all="ignore"):
            lanes = self._sums[0]
            for level in range(1, LEVELS):
                lanes = lanes + self._sums[level]
            parts = lanes.reshape(ACCUMULATORS, LANES)
            first, vectors = parts[0].copy(), len(self._rest) // LANES
            for i in range(vectors):
                first += self._rest[i * LANES : (i + 1) * LANES]
            for part in parts[1:]:
                first += part
            if not self._rows and not vectors:
                return _few(self._rest)
            total = np.float32(0)
            for value in (*self._rest[vectors * LANES :], *first):
                total = np.float32(total + value)
            return total


def _few(values: Floats) -> Array:
    sums = np.zeros(ACCUMULATORS, np.float32)
    whole = len(values) // ACCUMULATORS * ACCUMULATORS
    for i, value in enumerate(values):
        sums[i % ACCUMULATORS if i < whole else 0] += value
    total = sums[0]
    for value in sums[1:]:
        total = np.float32(total + value)
    return total
