"""Bodies of `kernels/basis.py`, which has the formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put


@jit
def times(rows: Any, matrix: Any, room: Any) -> None:
    """Each run of a row times a square `matrix`, added in the order of its rows; in place."""
    size = matrix.shape[0]
    for line in range(rows.shape[0]):
        for start in range(0, rows.shape[1], size):
            for i in range(size):
                room[i] = 0.0
            for k in range(size):
                number = rows[line, start + k]
                for i in range(size):
                    room[i] += number * matrix[k, i]
            for i in range(size):
                rows[line, start + i] = room[i]


@jit
def turned(matrix: Any, rows: Any, room: Any) -> None:
    """A square `matrix` times each run of rows, in chunks of columns; in place."""
    size, width = room.shape
    for first in range(0, rows.shape[0], size):
        for start in range(0, rows.shape[1], width):
            count = min(width, rows.shape[1] - start)
            for i in range(size):
                for j in range(count):
                    room[i, j] = 0.0
                for k in range(size):
                    number = matrix[i, k]
                    for j in range(count):
                        room[i, j] += number * rows[first + k, start + j]
            for i in range(size):
                for j in range(count):
                    rows[first + i, start + j] = room[i, j]


@jit
def round_values(rows: Any, over: Any, out: Any) -> None:
    """float64, divided by a number, to float32, and to what `out` holds."""
    for i in range(out.shape[0]):
        put(out, i, np.float32(rows[i] / over))
