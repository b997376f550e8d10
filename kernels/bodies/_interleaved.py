"""Rows of four-bit codes that lie four by four in words of 16 bits.

Four rows share a run of bytes: 32 bytes of each for 64 columns, then the next 64. Of 32 columns in
16 bytes, nibble n of word i, lowest first, is column 8 * n + i. Source:
https://github.com/casper-hansen/AutoAWQ awq/modules/linear/gemv_fast.py (`pack_intweight`).

The sizes are the callers' to check: nothing here is bounds-checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.awq import COLUMNS, ROWS, STEP
from anamnesis.kernels.bodies._codes import to_half
from anamnesis.kernels.bodies._jit import inline, jit, local, stack
from anamnesis.kernels.bodies._lookup import load_numbers, load_u64, look_up, table_for, words
from anamnesis.kernels.types import Array, Bytes, Floats

_ROW_BYTES = COLUMNS // 2
_u64 = np.uint64

_numbers = stack(64)


@inline
def _fours(low: np.uint64, high: np.uint64, shift: np.uint64) -> Any:
    """One nibble of each of eight words, as bytes of a uint64."""
    mask, half = _u64(0x000F000F000F000F), _u64(0x0000FFFF0000FFFF)
    # Fields 16 bits apart go 8 bits apart: the two of each half, then the halves.
    low, high = (low >> shift) & mask, (high >> shift) & mask
    low, high = (low | low >> _u64(8)) & half, (high | high >> _u64(8)) & half
    low, high = (low | low >> _u64(16)), (high | high >> _u64(16))
    return (low & _u64(0xFFFFFFFF)) | high << _u64(32)


@jit
def decode_interleaved(
    stream: Bytes, group: int, scales: Floats, added: Floats, half: bool, inputs: int, out: Array
) -> None:
    """Rows of `inputs` columns, a multiple of 64, from `stream`, uint8 `[rows * inputs / 2]`.

    A value is `code * scale + added`, of float32 `[groups, rows]`, a number for each `group`
    columns, a multiple of 32; `half` rounds it to binary16 first; `out` is `rows * inputs`
    elements.
    """
    numbers = local(_numbers(), 16, np.float32)
    for row in range(scales.shape[1] // ROWS * ROWS):
        begin = row // ROWS * ROWS * (inputs // 2) + row % ROWS * _ROW_BYTES
        for first in range(0, inputs, group):
            scale, add = scales[first // group, row], added[first // group, row]
            for code in range(16):
                value = np.float32(np.float32(np.float32(code) * scale) + add)
                numbers[code] = to_half(value) if half else value
            table = table_for(out, load_numbers(numbers, 0))
            for column in range(first, min(first + group, inputs), STEP):
                # Of 64 columns, each of four rows has 32 bytes one after the other.
                at = begin + column // COLUMNS * ROWS * _ROW_BYTES + column % COLUMNS // 2
                low, high = load_u64(stream, at), load_u64(stream, at + 8)
                # Nibble k of word i of 16 bits is column 8 k + i: each of 32 columns is in eight
                # words.
                zero, one = _fours(low, high, _u64(0)), _fours(low, high, _u64(4))
                two, three = _fours(low, high, _u64(8)), _fours(low, high, _u64(12))
                to = row * inputs + column
                look_up(out, to, table, words(zero, one))
                look_up(out, to + 16, table, words(two, three))
