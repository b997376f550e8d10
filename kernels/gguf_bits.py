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

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._blocks import run_blocks
from anamnesis.kernels._grids import ALL_BYTES, bit_words
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views

_ONE_BIT = bit_words(ALL_BYTES, 1)
_TWO_BITS = (ALL_BYTES[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).view("<u4").reshape(-1)
_q1_0 = kernel("gguf_bits:q1_0")
_q2_0 = kernel("gguf_bits:q2_0")
_tq1_0 = kernel("gguf_bits:tq1_0")
_tq2_0 = kernel("gguf_bits:tq2_0")


def decode_q1_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q1_0: one bit, `d` or `-d`."""
    run_blocks(lambda data, out: _q1_0(data, _ONE_BIT, out), blocks["payload"], 18, 128, out)


def decode_q2_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q2_0: `-d`, 0, `d` or `2 * d`."""
    run_blocks(lambda data, out: _q2_0(data, _TWO_BITS, 64, out), blocks["payload"], 18, 64, out)


def decode_q2_0_g128(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q2_0 in groups of 128, as the first PrismML files have it."""
    run_blocks(lambda data, out: _q2_0(data, _TWO_BITS, 128, out), blocks["payload"], 34, 128, out)


def decode_tq1_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """TQ1_0: base-3 digits, `-d`, 0 or `d`."""
    run_blocks(_tq1_0, blocks["payload"], 54, 256, out)


def decode_tq2_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """TQ2_0: two bits, `-d`, 0 or `d` (and `2 * d`, which no writer makes)."""
    run_blocks(_tq2_0, blocks["payload"], 66, 256, out)
