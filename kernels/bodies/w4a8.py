"""Bodies of `kernels/w4a8.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Bytes, Floats

_WHOLE = np.float32(12582912)  # 1.5 * 2**23: what is added to it has no fraction left


@jit
def decode(
    table: Floats,
    codes: Bytes,
    relative: Floats,
    channel: Floats,
    correction: tuple[Floats, bool],
    wide: bool,
    columns: int,
    out: Array,
) -> None:
    """Rows of 4-bit codes in pairs, and two more bits of each if `wide`.

    The numbers of a `correction` are added where it says so.
    """
    added, corrected = correction
    size = columns // relative.shape[1]
    for row in range(codes.shape[0]):
        for column in range(columns):
            byte = np.int64(codes[row, column // 2])
            # The low half is the first element; the upper bits follow all halves, four a byte.
            code = byte >> 4 if column % 2 else byte & 15
            if wide:
                high = np.int64(codes[row, columns // 2 + column // 4]) >> (2 * (column % 4))
                code |= (high & 3) << 4
            group = column // size
            number = np.float32(table[code] * relative[row, group])
            number = min(max(number, np.float32(-127)), np.float32(127))
            # The numbers of an int8 matrix: whole, ties to even.
            number = np.float32(np.float32(number + _WHOLE) - _WHOLE)
            value = np.float32(number * channel[row])
            if corrected:
                value = np.float32(value + added[group, row])
            put(out, row * columns + column, value)
