"""Tiles of 64 outputs by 16 inputs, as kernels around Marlin store them for a tensor core.

A line is 16 inputs, tile after tile along the outputs. The 1024 codes of a tile lie in lanes of 32,
the first in the lowest bits of a word; number e of thread j (0 to 3) in lane group l (0 to 31) is
code 8 (4 l + j) + place of e. Which output and input that is, and the order of the places, differs:
`marlin.py`, `marlin_24.py` and `qqq.py` have the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anamnesis.kernels.types import Array, Bytes, Indices

OUTPUTS, INPUTS = 64, 16
CODES = OUTPUTS * INPUTS
# Which of the eight numbers of a thread lies at each place of words of 4-bit, and of 8-bit codes.
NIBBLES, BYTES = (0, 2, 4, 6, 1, 3, 5, 7), (0, 2, 1, 3, 4, 6, 5, 7)


def threads() -> tuple[Any, Any, Any]:
    """`(l, j, e)` of all codes of a tile, each int64 `[32, 4, 8]`."""
    lane, j, e = np.indices((32, 4, 8))
    return lane, j, e


def places(output: Indices, number: Indices, order: Sequence[int]) -> Array:
    """The code that lies at each `[output, input]`, int64 `[64, 16]`.

    `output` and `number`, the input, are `[32, 4, 8]`, of `threads()`; `order[p]` is the e at place
    p.
    """
    lane, j, e = threads()
    found = np.empty((OUTPUTS, INPUTS), np.int64)
    # The tile has eight codes a thread; thread 4 l + j holds those of lane l, warp j.
    found[output, number] = 8 * (4 * lane + j) + np.argsort(order)[e]
    return found


def unpack(lines: Bytes, bits: int, order: Array) -> Array:
    """Codes of 4 or 8 bits as uint8 `[outputs, inputs]`, of uint8 `[lines, bytes]` of whole tiles.

    `order` is what `places` made. Raises ValueError for lines that are no whole tiles.
    """
    raw = np.ascontiguousarray(lines)
    units, rest = divmod(raw.shape[1], CODES * bits // 8)
    if rest or bits not in (4, 8):
        raise ValueError(f"lines of {raw.shape[1]} bytes, in tiles of {bits} bits")
    if bits == 4:
        # Place 2 i is the low half of byte i.
        raw = np.stack([raw & 15, raw >> 4], -1)
    # A line is 16 inputs of all outputs, a tile 64 outputs of it: tiles of a unit go one below the
    # other.
    codes = raw.reshape(len(raw), units, CODES)[..., order.reshape(-1)]
    codes = codes.reshape(len(raw), units, OUTPUTS, INPUTS).transpose(1, 2, 0, 3)
    return codes.reshape(units * OUTPUTS, -1)


def pack_rows(codes: Array, bits: int) -> Array:
    """Rows of codes as rows of bytes, the first in the lowest bits."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    # Code 2 i in the low half of byte i.
    return codes[:, ::2] | codes[:, 1::2] << 4


def lines_of_scales(stored: Bytes, dtype: str, order: Indices) -> Array:
    """Scales `[outputs, groups]` of uint8 `[groups, bytes]`, which lie `len(order)` at a time."""
    numbers = np.ascontiguousarray(stored).view(dtype)
    numbers = numbers.reshape(len(numbers), -1, len(order))[..., order]
    return np.ascontiguousarray(numbers.reshape(len(numbers), -1).T)
