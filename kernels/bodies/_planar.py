"""Codes packed by halves, quarters or eighths: a line of bytes holds several lines of the output.

    code of unit u, element j = line (u % period)[j] >> shift(u // period) & mask

`shift` steps by the bits of a code, from 0 up (`low` first) or down to 0. Here a code stands for
the same number everywhere; `_planar_scales` is for units with scales. Nothing here is
bounds-checked: shapes are the callers' to check.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, put
from anamnesis.kernels.bodies._lookup import load_numbers, look_up, table_for
from anamnesis.kernels.bodies._vector import load16
from anamnesis.kernels.types import Array, Bytes, Floats

LANES = 16


@inline
def shift_of(chunk: int, bits: int, fields: int, low: bool) -> Any:
    """How far down the codes of a chunk lie, of so many `fields`."""
    # Code k of a byte is of the k-th part of the tensor, from the lowest bits on or from the
    # highest.
    return bits * chunk if low else bits * (fields - 1 - chunk)


@jit
def decode_table(
    data: Bytes,
    base: int,
    period: int,
    size: int,
    bits: int,
    low: bool,
    numbers: Floats,
    first: int,
    out: Array,
) -> None:
    """Units of `size` elements from unit `first` on: element = `numbers[code]`, float32 `[16]`.

    `data` is the uint8 lines from that of unit `base` on; codes have 1, 2 or 4 `bits`.
    """
    table, mask = table_for(out, load_numbers(numbers, 0)), np.uint8((1 << bits) - 1)
    for unit in range(first, first + out.shape[0] // size):
        chunk = unit // period
        at = (unit - (base if base else chunk * period)) * size
        shift = np.uint8(shift_of(chunk, bits, 8 // bits, low))
        to, whole = (unit - first) * size, size - size % LANES
        for i in range(0, whole, LANES):
            # Bits `shift` to `shift + bits - 1` of each byte.
            look_up(out, to + i, table, (load16(data, at + i) >> shift) & mask)
        for i in range(whole, size):
            put(out, to + i, numbers[np.uint8(np.uint8(data[at + i] >> shift) & mask)])
