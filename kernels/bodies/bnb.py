"""Bodies of `kernels/bnb.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._sizes import STEP_BYTES
from anamnesis.kernels.bodies._jit import jit, local, put, stack
from anamnesis.kernels.bodies._lookup import load_numbers, table_for
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.bodies._nibbles import look_up_pairs
from anamnesis.kernels.bodies._vector import clean_nan, load16, load32, signed, store, to_f32
from anamnesis.kernels.types import Array, Bytes, Floats

_LANES = 32

_numbers = stack(64)


@jit
def four_bit(
    quant_map: Floats, absmax: Floats, packed: Bytes, block_bytes: int, narrow: int, out: Array
) -> None:
    """Pairs of codes, `block_bytes` under each number of `absmax`, looked up in the scaled map."""
    narrowed = local(_numbers(), 16, np.float32)
    for i in range(absmax.shape[0]):
        scale = clean_nan(absmax[i])
        # Sixteen products a block: a code looks its value up.
        numbers = load_numbers(quant_map, 0) * scale
        if narrow != 0:
            for code in range(16):
                narrowed[code] = rounded(np.float32(quant_map[code] * scale), narrow)
            numbers = load_numbers(narrowed, 0)
        table = table_for(out, numbers)
        for at in range(i * block_bytes, (i + 1) * block_bytes, STEP_BYTES):
            # The high half of a byte is the first of its two elements.
            look_up_pairs(out, 2 * at, table, load16(packed, at))


@jit
def nested(
    codes: Bytes, quant_map: Floats, absmax: Floats, size: int, offset: int, first: int, out: Floats
) -> None:
    """Codes of scales, `size` under each number of `absmax`; `first` is that of `codes[0]`."""
    at = 0
    while at < codes.shape[0]:
        group = (first + at) // size
        stop = min(codes.shape[0], (group + 1) * size - first)
        for i in range(at, stop):
            out[i] = np.float32(np.float32(quant_map[codes[i]] * absmax[group]) + offset)
        at = stop


@jit
def int8(codes: Bytes, columns: int, scb: Floats, inverse: np.float32, out: Array) -> None:
    """Rows of int8 codes times `scb / 127`, one number a row."""
    for row in range(scb.shape[0]):
        scale = clean_nan(scb[row])
        start, stop = row * columns, (row + 1) * columns
        vectors = stop - columns % _LANES
        for at in range(start, vectors, _LANES):
            store(out, at, to_f32(signed(load32(codes, at))) * scale * inverse)
        for at in range(vectors, stop):
            code = np.float32(np.int8(codes[at]))
            put(out, at, np.float32(np.float32(code * scale) * inverse))
