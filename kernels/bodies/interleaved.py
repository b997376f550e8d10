"""Bodies of `kernels/interleaved.py`, which has the layout."""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Bytes, Ints


@jit
def apart(groups: Bytes, sizes: tuple[int, int, int], moves: Ints, plain: Bytes) -> None:
    """Rows of each group, zeros at first; `sizes` are their number, bytes before and of a block."""
    count, meta, size = sizes
    for group in range(groups.shape[0]):
        line, rows = groups[group], plain[group * count : (group + 1) * count]
        for row in range(count):
            for i in range(meta):
                rows[row, i] = line[row * meta + i]
        for block in range((plain.shape[1] - meta) // size):
            at, to = count * (meta + block * size), meta + block * size
            for k in range(moves.shape[0]):
                # A repacked byte, how far down, the mask, how far up; row and byte.
                part = line[at + moves[k, 0]] >> moves[k, 1] & moves[k, 2]
                rows[moves[k, 4], to + moves[k, 5]] ^= part << moves[k, 3]
