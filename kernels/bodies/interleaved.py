"""Bodies of `kernels/interleaved.py`, which has the layout."""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Bytes, Ints


@jit
def apart(
    groups: Bytes, sizes: tuple[int, int, int], starts: Ints, moves: Ints, plain: Bytes
) -> None:
    """Rows of each group; `sizes` are its rows, the bytes before a row's blocks and of a block."""
    count, meta, size = sizes
    for group in range(groups.shape[0]):
        line = groups[group]
        for row in range(count):
            for i in range(meta):
                plain[group * count + row, i] = line[row * meta + i]
        for block in range((plain.shape[1] - meta) // size):
            at, to = count * (meta + block * size), meta + block * size
            for row in range(count):
                for i in range(size):
                    byte = 0
                    for k in range(starts[row * size + i], starts[row * size + i + 1]):
                        # A repacked byte, how far down, the mask, how far up.
                        part = line[at + moves[k, 0]] >> moves[k, 1] & moves[k, 2]
                        byte ^= part << moves[k, 3]
                    plain[group * count + row, to + i] = byte
