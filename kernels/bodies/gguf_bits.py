"""Bodies of `kernels/gguf_bits.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._lookup import first_digits, load_numbers, look_up, table_for, words
from anamnesis.kernels.bodies._vector import join, load4, load16, load_half
from anamnesis.kernels.types import Array, Bytes, Floats

# Codes repeat in the tables, so that the bits above a code need no mask.
_SIGNS = np.tile(np.array([-1, 1], np.float32), 8)
_LEVELS = np.tile(np.array([-1, 0, 1, 2], np.float32), 4)


@jit
def q1_0(data: Bytes, spread: Array, out: Array) -> None:
    """Q1_0: d f16, qs[16]."""
    signs = load_numbers(_SIGNS, 0)
    for block in range(data.shape[0] // 18):
        at = block * 18
        table = table_for(out, signs * load_half(data, at))
        for j in range(0, 16, 2):
            # Bit i of byte j is element 8 j + i; `spread` has a byte for each bit.
            codes = words(spread[data[at + 2 + j]], spread[data[at + 3 + j]])
            look_up(out, block * 128 + 8 * j, table, codes)


@inline
def _joined(first: np.uint32, second: np.uint32) -> Any:
    return np.uint64(first) | np.uint64(second) << np.uint64(32)


@jit
def q2_0(data: Bytes, spread: Array, block_elems: int, out: Array) -> None:
    """Q2_0: d f16, qs[`block_elems` / 4]."""
    levels = load_numbers(_LEVELS, 0)
    qs_bytes = block_elems // 4
    for block in range(data.shape[0] // (2 + qs_bytes)):
        at = block * (2 + qs_bytes)
        table = table_for(out, levels * load_half(data, at))
        for j in range(at + 2, at + 2 + qs_bytes, 4):
            # Bits 2 i, 2 i + 1 of byte j are element 4 j + i; `spread` has a byte for each pair.
            low = _joined(spread[data[j]], spread[data[j + 1]])
            high = _joined(spread[data[j + 2]], spread[data[j + 3]])
            look_up(out, block * block_elems + 4 * (j - at - 2), table, words(low, high))


@jit
def tq1_0(data: Bytes, out: Array) -> None:
    """TQ1_0: qs[48], qh[4], d f16."""
    levels = load_numbers(_LEVELS, 0)
    for block in range(data.shape[0] // 54):
        at, to = block * 54, block * 256
        table = table_for(out, levels * load_half(data, at + 52))
        first, second, third = load16(data, at), load16(data, at + 16), load16(data, at + 32)
        # Digit n of byte i is element 32 n + i, of the last 16 bytes 160 + 16 n + i.
        for digit in range(5):
            look_up(out, to + 32 * digit, table, first_digits(first))
            look_up(out, to + 32 * digit + 16, table, first_digits(second))
            look_up(out, to + 16 * digit + 160, table, first_digits(third))
            first, second, third = first * 3, second * 3, third * 3
        # Digit n of byte i of qh is element 240 + 4 n + i.
        qh = load4(data, at + 48)
        look_up(out, to + 240, table, first_digits(join(join(qh, qh * 3), join(qh * 9, qh * 27))))


@jit
def tq2_0(data: Bytes, out: Array) -> None:
    """TQ2_0: qs[2][32], d f16."""
    levels = load_numbers(_LEVELS, 0)
    for block in range(data.shape[0] // 66):
        at, to = block * 66, block * 256
        table = table_for(out, levels * load_half(data, at + 64))
        for half in range(2):
            first, second = load16(data, at + 32 * half), load16(data, at + 32 * half + 16)
            # Bits 2 j, 2 j + 1 of byte i are element 32 j + i; a look-up takes the low two only.
            for pair in range(4):
                look_up(out, to + 128 * half + 32 * pair, table, first >> (2 * pair))
                look_up(out, to + 128 * half + 32 * pair + 16, table, second >> (2 * pair))


@jit
def i2_s(data: Bytes, numbers: Floats, out: Array) -> None:
    """I2_S: u8[32] a block; `numbers`, float32 `[16]`, repeats what the four codes stand for."""
    table = table_for(out, load_numbers(numbers, 0))
    for block in range(data.shape[0] // 32):
        at, to = block * 32, block * 128
        first, second = load16(data, at), load16(data, at + 16)
        # Bits 6 - 2 j, 7 - 2 j of byte i are element 32 j + i.
        for pair in range(4):
            look_up(out, to + 32 * pair, table, first >> (6 - 2 * pair))
            look_up(out, to + 32 * pair + 16, table, second >> (6 - 2 * pair))
