"""Bodies of `kernels/vptq.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Floats


@jit
def vectors(
    words: Array,
    layout: tuple[int, ...],
    both_books: tuple[Floats, Floats],
    places: Array,
    factors: tuple[Floats, Floats],
    first: int,
    most: Array,
    out: Array,
) -> None:
    """Vectors of a column each, by index into a codebook of its group and one of the rest.

    `factors` are the scale and the bias of each place, or empty.
    """
    (books, rest), (scale, bias) = both_books, factors
    bits, more, size, outliers, width = layout
    length, columns = books.shape[2], places.shape[0]
    rows = out.shape[0] // columns
    total, mask = bits + more, (1 << bits) - 1
    for vector in range(-(-rows // length)):
        top = vector * length
        for group in range(books.shape[0]):
            line = words[group]
            for j in range(min(size, columns - outliers - group * size)):
                # The stream of a vector: `total` bits a column, at most 32, in at most two words.
                word = vector * width + (j * total >> 5)
                both = np.uint64(line[word])
                if (j * total & 31) + total > 32:
                    both |= np.uint64(line[word + 1]) << np.uint64(32)
                code = np.int64(both >> np.uint64(j * total & 31))
                # Bits 0 to bits - 1: an index of the main codebook; the bits above: one of the
                # rest.
                one, two = code & mask, code >> bits & ((1 << more) - 1)
                # What the caller checks against the books; indices are masked, and books padded.
                most[0], most[1] = max(most[0], one), max(most[1], two)
                place = places[outliers + group * size + j]
                for i in range(min(length, rows - top)):
                    value = books[group, one, i]
                    if more:
                        value += rest[group, two, i]
                    at = place if first < 0 else first + top + i
                    if scale.shape[0]:
                        # Two roundings, as the library's product and sum are.
                        value = np.float32(value * scale[at])
                        value = np.float32(value + bias[at])
                    put(out, (top + i) * columns + place, value)


@jit
def add_outliers(
    indices: Array, book: Array, places: Array, scale: Array, bias: Array, first: int, out: Array
) -> None:
    """The first columns, whose vectors have a codebook of their own."""
    length, columns = book.shape[1], places.shape[0]
    rows = out.shape[0] // columns
    for vector in range(-(-rows // length)):
        top = vector * length
        for j in range(indices.shape[1]):
            place = places[j]
            for i in range(min(length, rows - top)):
                value = book[indices[vector, j], i]
                at = place if first < 0 else first + top + i
                if scale.shape[0]:
                    value = np.float32(value * scale[at])
                    value = np.float32(value + bias[at])
                put(out, (top + i) * columns + place, value)
