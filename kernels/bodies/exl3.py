"""Bodies of `kernels/exl3.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._butterflies import across_lines, along_line
from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.exl3 import GROUP, TILE
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def decode(
    words: Array,
    halves: int,
    table: Floats,
    places: Bytes,
    inputs: Array,
    outputs: Array,
    square: Array,
    out: Array,
) -> None:
    """Trellises of `halves` of a bit a number, turned back in double; `square` is 128 by 128."""
    columns = inputs.shape[0]
    for first in range(0, outputs.shape[0], GROUP):
        for start in range(0, columns, GROUP):
            for tile in range(GROUP // TILE * (GROUP // TILE)):
                across, down = tile // (GROUP // TILE), tile % (GROUP // TILE)
                line = words[start // TILE + down]
                _tile(
                    line,
                    (first // TILE + across) * 4 * halves,
                    halves,
                    table,
                    places,
                    square[across * TILE : (across + 1) * TILE, down * TILE : (down + 1) * TILE],
                )
            for row in range(GROUP):
                along_line(square[row], GROUP)
                for i in range(GROUP):
                    square[row, i] *= inputs[start + i]
            across_lines(square, GROUP, GROUP)
            for row in range(GROUP):
                # Both transforms are orthogonal but for sqrt(128) each.
                factor = outputs[first + row] / np.float64(GROUP)
                at = (first + row) * columns + start
                for i in range(GROUP):
                    put(out, at + i, np.float32(square[row, i] * factor))


@jit
def _tile(line: Array, at: int, halves: int, table: Floats, places: Bytes, part: Array) -> None:
    """The 256 numbers of a tile, its columns as rows of `part`."""
    size = 128 * halves
    for step in range(256):
        # A state is 16 bits that end with those of its own number, `halves / 2` bits; the stream of
        # a tile, highest bits first, goes round.
        begin = (((step + 1) * halves >> 1) - 16) % size
        word = begin >> 5
        after = word + 1 if (word + 1) * 32 < size else 0
        both = np.uint64(line[at + word]) << np.uint64(32) | np.uint64(line[at + after])
        # Bits `begin` to `begin + 15` of two words, counted from the highest.
        state = both >> np.uint64(48 - (begin & 31)) & np.uint64(0xFFFF)
        place = places[step]
        # A place: bits 0-3 the column, bits 4-7 the row of the tile.
        part[place & 15, place >> 4] = np.float64(table[state])
