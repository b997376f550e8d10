"""GGUF's types of one to two bits an element: Q1_0, Q2_0, TQ1_0 and TQ2_0.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_q1_0`, `block_q2_0`, `block_tq1_0`,
`block_tq2_0`) and ggml/src/ggml-quants.c (`dequantize_row_*`). Q2_0 in groups of 128: early files
of PrismML, which use the type number 42 as well (ggml-org/llama.cpp#22256).

| type | elements, bytes | layout | value |
|---|---|---|---|
| Q1_0 | 128, 18 | d f16; qs u8[16], bit j % 8 of byte j // 8 | bit ? d : -d |
| Q2_0 | 64, 18 | d f16; qs u8[16], bits 2 * (j % 4) of byte j // 4 | d * (q - 1) |
| Q2_0, group 128 | 128, 34 | d f16; qs u8[32], the same | d * (q - 1) |
| TQ1_0 | 256, 54 | qs u8[48], qh u8[4], d f16 | d * (q - 1) |
| TQ2_0 | 256, 66 | qs u8[2][32], each the bits 0, 2, 4, 6 of 32 bytes; d f16 | d * (q - 1) |

A TQ1_0 byte holds five base-3 digits, in `qh` four. Its first 32 bytes give 5 * 32 elements (all
first digits, then all second ones), the next 16 give 5 * 16, and `qh` gives 4 * 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._grids import ALL_BYTES, bit_words
from anamnesis.kernels._jit import inline, jit
from anamnesis.kernels._lookup import first_digits, load_numbers, look_up, table_for, words
from anamnesis.kernels._vector import join, load4, load16, load_half, run_blocks

# Codes repeat in the tables, so that the bits above a code need no mask.
_SIGNS = np.tile(np.array([-1, 1], np.float32), 8)
_LEVELS = np.tile(np.array([-1, 0, 1, 2], np.float32), 4)
_ONE_BIT = bit_words(ALL_BYTES, 1)
_TWO_BITS = (ALL_BYTES[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).view("<u4").reshape(-1)


@jit
def _q1_0(data: Any, spread: Any, out: Any) -> None:
    signs = load_numbers(_SIGNS, 0)
    for block in range(data.shape[0] // 18):
        at = block * 18
        table = table_for(out, signs * load_half(data, at))
        for j in range(0, 16, 2):
            codes = words(spread[data[at + 2 + j]], spread[data[at + 3 + j]])
            look_up(out, block * 128 + 8 * j, table, codes)


@inline
def _joined(first: Any, second: Any) -> Any:
    return np.uint64(first) | np.uint64(second) << np.uint64(32)


@jit
def _q2_0(data: Any, spread: Any, block_elems: Any, out: Any) -> None:
    levels = load_numbers(_LEVELS, 0)
    qs_bytes = block_elems // 4
    for block in range(data.shape[0] // (2 + qs_bytes)):
        at = block * (2 + qs_bytes)
        table = table_for(out, levels * load_half(data, at))
        for j in range(at + 2, at + 2 + qs_bytes, 4):
            low = _joined(spread[data[j]], spread[data[j + 1]])
            high = _joined(spread[data[j + 2]], spread[data[j + 3]])
            look_up(out, block * block_elems + 4 * (j - at - 2), table, words(low, high))


@jit
def _tq1_0(data: Any, out: Any) -> None:
    levels = load_numbers(_LEVELS, 0)
    for block in range(data.shape[0] // 54):
        at, to = block * 54, block * 256
        table = table_for(out, levels * load_half(data, at + 52))
        first, second, third = load16(data, at), load16(data, at + 16), load16(data, at + 32)
        for digit in range(5):
            look_up(out, to + 32 * digit, table, first_digits(first))
            look_up(out, to + 32 * digit + 16, table, first_digits(second))
            look_up(out, to + 16 * digit + 160, table, first_digits(third))
            first, second, third = first * 3, second * 3, third * 3
        qh = load4(data, at + 48)
        look_up(out, to + 240, table, first_digits(join(join(qh, qh * 3), join(qh * 9, qh * 27))))


@jit
def _tq2_0(data: Any, out: Any) -> None:
    levels = load_numbers(_LEVELS, 0)
    for block in range(data.shape[0] // 66):
        at, to = block * 66, block * 256
        table = table_for(out, levels * load_half(data, at + 64))
        for half in range(2):
            first, second = load16(data, at + 32 * half), load16(data, at + 32 * half + 16)
            for pair in range(4):
                look_up(out, to + 128 * half + 32 * pair, table, first >> (2 * pair))
                look_up(out, to + 128 * half + 32 * pair + 16, table, second >> (2 * pair))


def decode_q1_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q1_0: one bit, `d` or `-d`."""
    run_blocks(lambda data, out: _q1_0(data, _ONE_BIT, out), blocks["payload"], 18, 128, out)


def decode_q2_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q2_0: `-d`, 0, `d` or `2 * d`."""
    run_blocks(lambda data, out: _q2_0(data, _TWO_BITS, 64, out), blocks["payload"], 18, 64, out)


def decode_q2_0_g128(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q2_0 in groups of 128, as the first PrismML files have it."""
    run_blocks(lambda data, out: _q2_0(data, _TWO_BITS, 128, out), blocks["payload"], 34, 128, out)


def decode_tq1_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """TQ1_0: base-3 digits, `-d`, 0 or `d`."""
    run_blocks(_tq1_0, blocks["payload"], 54, 256, out)


def decode_tq2_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """TQ2_0: two bits, `-d`, 0 or `d` (and `2 * d`, which no writer makes)."""
    run_blocks(_tq2_0, blocks["payload"], 66, 256, out)
