"""Bodies of `kernels/folded.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Floats


@jit
def scale(numbers: Floats, factor: Floats, divide: bool, out: Array) -> None:
    """Rows times `factor`, a number a column, or divided by it."""
    columns = factor.shape[0]
    for start in range(0, out.shape[0], columns):
        if divide:
            for i in range(columns):
                put(out, start + i, np.divide(numbers[start + i], factor[i]))  # by 0 too
        else:
            for i in range(columns):
                put(out, start + i, numbers[start + i] * factor[i])


@jit
def round_values(numbers: Floats, out: Array) -> None:
    """float32 to what `out` holds."""
    for i in range(out.shape[0]):
        put(out, i, numbers[i])


@jit
def add_product(b: Array, a: Array, columns: int, row: Array, numbers: Array) -> None:
    """`numbers += b @ a`; double holds a product of two floats, so each step is rounded once."""
    for line in range(numbers.shape[0] // columns):
        for i in range(columns):
            row[i] = np.float32(0)
        for k in range(a.shape[0]):
            left = np.float64(b[line, k])
            for i in range(columns):
                row[i] = np.float32(left * np.float64(a[k, i]) + np.float64(row[i]))
        for i in range(columns):
            numbers[line * columns + i] += row[i]


@jit
def rotate(numbers: Array, matrix: Array, row: Array, out: Array) -> None:
    """Runs of numbers times a square `matrix`, added in the order of its rows; `row` is room."""
    size = matrix.shape[0]
    for start in range(0, out.shape[0], size):
        for i in range(size):
            row[i] = np.float32(0)
        for k in range(size):
            number = numbers[start + k]
            for i in range(size):
                row[i] += number * matrix[k, i]
        for i in range(size):
            put(out, start + i, row[i])


@jit
def turn_back(
    numbers: Array, pairs: Array, turns: Array, factor: Array, row: Array, out: Array
) -> None:
    """Each row times the transposed turns, the last first, then times the factors."""
    columns = factor.shape[0]
    for start in range(0, out.shape[0], columns):
        for i in range(columns):
            row[i] = numbers[start + i]
        for turn in range(pairs.shape[0] - 1, -1, -1):
            for pair in range(pairs.shape[1]):
                i, j = pairs[turn, pair, 0], pairs[turn, pair, 1]
                if i != j:
                    cosine, sine = turns[turn, pair, 0], turns[turn, pair, 1]
                    a, b = row[i], row[j]
                    # The transpose of a turn is the turn back.
                    row[i], row[j] = a * cosine - b * sine, a * sine + b * cosine
        for i in range(columns):
            put(out, start + i, np.float32(row[i] * factor[i]))
