"""Bodies of `kernels/int4.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Bytes


@jit
def part(pairs: Bytes, rows: Bytes) -> None:
    """Low halves of a row of bytes to one row of nibbles, high halves to the next."""
    for line in range(pairs.shape[0]):
        for i in range(rows.shape[1]):
            # Byte i of a row: columns 2 i (low half) and 2 i + 1. Low halves of `pairs` are the
            # even row, high halves the odd one.
            first, second = pairs[line, 2 * i], pairs[line, 2 * i + 1]
            low = np.uint8(np.uint8(first & np.uint8(15)) | np.uint8(second << np.uint8(4)))
            high = np.uint8(np.uint8(first >> np.uint8(4)) | np.uint8(second & np.uint8(0xF0)))
            rows[2 * line, i] = low
            rows[2 * line + 1, i] = high
