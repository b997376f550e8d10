"""Bodies of `kernels/transposed.py`."""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.bodies._transpose import LINE_BYTES, transpose_lines
from anamnesis.kernels.types import Array


@jit
def transpose(source: Array, out: Array) -> None:
    """`out[i, j] = source[j, i]`, by squares that are cache lines wide."""
    side = LINE_BYTES // source.itemsize
    rows, columns = source.shape
    whole_rows, whole_columns = rows // side * side, columns // side * side
    for row in range(0, whole_rows, side):
        for column in range(0, whole_columns, side):
            transpose_lines(source, row, column, out, column, row)
    for i in range(columns):
        for j in range(whole_rows if i < whole_columns else 0, rows):
            out[i, j] = source[j, i]
