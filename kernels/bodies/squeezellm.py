"""Bodies of `kernels/squeezellm.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Floats, Ints, Words


@jit
def rows(
    words: Words,
    tables: Floats,
    bits: int,
    sparse: tuple[Ints, Ints, Floats],
    full: tuple[Ints, Floats],
    first: int,
    room: Floats,
    out: Array,
) -> None:
    """Outputs from number `first` on; `room` is for one."""
    offsets, columns, values = sparse
    indices, whole = full
    inputs, mask = room.shape[0], np.uint64((1 << bits) - 1)
    for unit in range(words.shape[1]):
        for i in range(inputs):
            # Code i of a column is bits `i * bits` and up of its words.
            line, shift = i * bits >> 5, i * bits & 31
            field = np.uint64(words[line, unit])
            if shift + bits > 32:
                field |= np.uint64(words[line + 1, unit]) << np.uint64(32)
            room[i] = tables[unit, field >> np.uint64(shift) & mask]
        row = first + unit
        if columns.shape[0]:
            for k in range(offsets[row], offsets[row + 1]):
                room[columns[k]] += values[k]
        for k in range(indices.shape[0]):
            if indices[k] == row:
                for i in range(inputs):
                    room[i] += whole[i, k]
        for i in range(inputs):
            put(out, unit * inputs + i, room[i])
