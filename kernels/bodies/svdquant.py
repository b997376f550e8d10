"""Bodies of `kernels/svdquant.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def values(
    codes: Bytes,
    grid: Floats,
    scale: Floats,
    centre: Floats,
    smooth: Floats,
    low: tuple[Floats, Floats],
    line: Floats,
    out: Array,
) -> None:
    """What `grid` has for codes, scaled, over `smooth`, on `centre` and on `up @ down`.

    `low` is `up` and `down`, `line` is room for a row.
    """
    up, down = low
    columns = line.shape[0]
    size = columns // scale.shape[1]
    for row in range(codes.shape[0]):
        for i in range(columns):
            line[i] = np.float32(0)
        for k in range(down.shape[0]):
            left = np.float64(up[row, k])
            for i in range(columns):
                # A fused multiply-add: double holds the product of two floats exactly.
                line[i] = np.float32(left * np.float64(down[k, i]) + np.float64(line[i]))
        for i in range(columns):
            byte = np.int64(codes[row, i // 2])
            # The low half of a byte is the first of its two columns.
            code = byte >> 4 if i % 2 else byte & 15
            value = np.float32(grid[code] * scale[row, i // size])
            if smooth.shape[0]:
                value = np.divide(value, smooth[i])
            if centre.shape[0]:
                value = np.float32(value + centre[row, i // size])
            if down.shape[0]:
                value = np.float32(value + line[i])
            put(out, row * columns + i, value)


@jit
def biases(
    codes: Bytes,
    grid: Floats,
    scale: Floats,
    smooth: Floats,
    bias: Floats,
    shift: np.float32,
    out: Array,
) -> None:
    """`bias` and `shift` times the sum of each row's values over `smooth`, in double."""
    columns = smooth.shape[0]
    size = columns // scale.shape[1]
    for row in range(codes.shape[0]):
        total = np.float64(0)
        for i in range(columns):
            byte = np.int64(codes[row, i // 2])
            # Bits 0-3 are column 2 i, bits 4-7 column 2 i + 1.
            code = byte >> 4 if i % 2 else byte & 15
            value = np.float32(grid[code] * scale[row, i // size])
            total += np.float64(np.divide(value, smooth[i]))
        put(out, row, np.float32(np.float64(bias[row, 0]) + np.float64(shift) * total))
