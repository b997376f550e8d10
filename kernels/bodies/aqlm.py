"""Bodies of `kernels/aqlm.py`, which has the layout."""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def sums(
    codes: Bytes, books: Floats, scales: Floats, rows: int, columns: int, some: Floats, out: Array
) -> None:
    """Vectors of a unit's groups, added in the order of `books`, scaled once; `some` is room."""
    count, mask = books.shape[0], books.shape[1] - 1
    groups = codes.shape[1] // count
    inputs = groups * columns
    for unit in range(codes.shape[0]):
        scale = scales[unit]
        for group in range(groups):
            for row in range(rows):
                # Codes are signed, of as many bits as index a book.
                vector = books[0, codes[unit, group * count] & mask]
                for i in range(columns):
                    some[i] = vector[row * columns + i]
                for book in range(1, count):
                    vector = books[book, codes[unit, group * count + book] & mask]
                    for i in range(columns):
                        some[i] += vector[row * columns + i]
                at = (unit * rows + row) * inputs + group * columns
                for i in range(columns):
                    put(out, at + i, some[i] * scale)
