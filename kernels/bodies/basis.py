"""Bodies of `kernels/basis.py`, which has the formula.

A Hadamard matrix of Sylvester's kind is applied in butterflies, n log n additions in the place of
n * n, where no sum is rounded: then every order of additions gives the same bits. That is so where
all numbers are multiples of a unit that n of the largest, and a factor of few bits, are less than
2 ** 53 of. Runs of numbers of which it does not hold take the long way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._butterflies import across_lines, along_line
from anamnesis.kernels.bodies._jit import inline, jit, put
from anamnesis.kernels.types import Array, Doubles

_LEAST, _MOST = 2.0**-400, 2.0**400  # so that no product below leaves the range of double


@inline
def _unit(largest: float, count: int, bits: float) -> Any:
    """One over the unit that numbers up to `largest` have to be multiples of; 0: there is none."""
    if not _LEAST < largest < _MOST:
        return 0.0
    # All sums of `count` such numbers fit 53 bits of a double in this unit, so that none is
    # rounded.
    power = np.floor(np.log2(largest)) + 2.0  # one more than needed: a logarithm is rounded
    return 2.0 ** (53.0 - power - np.log2(np.float64(count)) - bits)


@jit
def times(rows: Array, matrix: Array, room: Array) -> None:
    """Each run of a row times a square `matrix`, added in the order of its rows; in place.

    As many rows at a time as `room` has, so that the matrix is read less often.
    """
    together, size = room.shape
    for first in range(0, rows.shape[0], together):
        count = min(together, rows.shape[0] - first)
        for start in range(0, rows.shape[1], size):
            for line in range(count):
                for i in range(size):
                    room[line, i] = 0.0
            for k in range(size):
                # A row of the matrix is read once for all lines.
                for line in range(count):
                    number = rows[first + line, start + k]
                    for i in range(size):
                        room[line, i] += number * matrix[k, i]
            for line in range(count):
                for i in range(size):
                    rows[first + line, start + i] = room[line, i]


@jit
def times_sylvester(
    rows: Array, matrix: Array, before: Array, after: Array, factor: float, bits: int, room: Array
) -> None:
    """As `times`; `matrix` is `factor * before[k] * H[k, i] * after[i]`.

    `bits` are those of the factor; signs are 1 or -1, float64.
    """
    size = matrix.shape[0]
    line_room = room[0]
    for line in range(rows.shape[0]):
        for start in range(0, rows.shape[1], size):
            largest = 0.0
            for i in range(size):
                largest = max(largest, abs(rows[line, start + i]))
            scale = _unit(largest, size, bits)
            whole = scale > 0.0
            if whole:
                wrong = 0
                for i in range(size):
                    number = rows[line, start + i] * scale
                    wrong += np.floor(number) != number  # and of NaN
                    line_room[i] = rows[line, start + i] * before[i]
                whole = wrong == 0
            if not whole:
                times(rows[line : line + 1, start : start + size], matrix, room[:1])
                continue
            along_line(line_room, size)
            for i in range(size):
                rows[line, start + i] = line_room[i] * (after[i] * factor) + 0.0  # no minus zero


@jit
def turned(matrix: Doubles, rows: Array, room: Array) -> None:
    """A square `matrix` times each run of rows, in chunks of columns; in place."""
    size, width = room.shape
    for first in range(0, rows.shape[0], size):
        for start in range(0, rows.shape[1], width):
            count = min(width, rows.shape[1] - start)
            _turned_chunk(matrix, rows[first : first + size, start : start + count], room)


@jit
def _turned_chunk(matrix: Array, rows: Array, room: Array) -> None:
    size, count = rows.shape
    for i in range(size):
        for j in range(count):
            room[i, j] = 0.0
        for k in range(size):
            number = matrix[i, k]
            for j in range(count):
                room[i, j] += number * rows[k, j]
    for i in range(size):
        for j in range(count):
            rows[i, j] = room[i, j]


@jit
def turned_sylvester(
    matrix: Doubles, rows: Array, before: Array, after: Array, factor: float, bits: int, room: Array
) -> None:
    """As `turned`; `matrix` is `factor * after[i] * H[i, k] * before[k]`."""
    size, width = room.shape
    for first in range(0, rows.shape[0], size):
        for start in range(0, rows.shape[1], width):
            count = min(width, rows.shape[1] - start)
            part = rows[first : first + size, start : start + count]
            largest = 0.0
            for k in range(size):
                for j in range(count):
                    largest = max(largest, abs(part[k, j]))
            scale = _unit(largest, size, bits)
            wrong = 0 if scale > 0.0 else 1
            if wrong == 0:
                for k in range(size):
                    for j in range(count):
                        number = part[k, j] * scale
                        wrong += np.floor(number) != number
                        room[k, j] = part[k, j] * before[k]
            if wrong:
                _turned_chunk(matrix, part, room)
                continue
            across_lines(room, size, count)
            for i in range(size):
                for j in range(count):
                    part[i, j] = room[i, j] * (after[i] * factor) + 0.0


@jit
def round_values(rows: Array, over: float, out: Array) -> None:
    """float64, divided by a number, to float32, and to what `out` holds."""
    for i in range(out.shape[0]):
        put(out, i, np.float32(rows[i] / over))
