"""GGUF's first block formats: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, 32 elements a block.

| type | bytes | layout, in order               | value of element j |
|------|-------|--------------------------------|--------------------|
| Q4_0 | 18    | d f16, qs[16]                  | d * (q - 8)        |
| Q4_1 | 20    | d f16, m f16, qs[16]           | d * q + m          |
| Q5_0 | 22    | d f16, qh u32, qs[16]          | d * (q - 16)       |
| Q5_1 | 24    | d f16, m f16, qh u32, qs[16]   | d * q + m          |
| Q8_0 | 34    | d f16, qs[32] int8             | d * q              |

Nibbles: the low one of qs[j] is element j, the high one element j + 16; bit j of qh is bit 4 of
element j's q. Arithmetic is float32, product and sum each rounded. Sources: ggml's
`ggml/src/ggml-common.h` (block structs) and `ggml/src/ggml-quants.c` (`dequantize_row_*`),
https://github.com/ggml-org/llama.cpp; `gguf-py/gguf/quants.py` there.
"""

from __future__ import annotations

from anamnesis.kernels import Window
from anamnesis.kernels._blocks import run_blocks
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views

_q4_0 = kernel("gguf_legacy:q4_0")
_q4_1 = kernel("gguf_legacy:q4_1")
_q5_0 = kernel("gguf_legacy:q5_0")
_q5_1 = kernel("gguf_legacy:q5_1")
_q8_0 = kernel("gguf_legacy:q8_0")


def decode_q4_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q4_0: 4-bit codes around 8, one scale."""
    run_blocks(_q4_0, blocks["payload"], 18, 32, out)


def decode_q4_1(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q4_1: 4-bit codes, a scale and a minimum."""
    run_blocks(_q4_1, blocks["payload"], 20, 32, out)


def decode_q5_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q5_0: 5-bit codes around 16, one scale."""
    run_blocks(_q5_0, blocks["payload"], 22, 32, out)


def decode_q5_1(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q5_1: 5-bit codes, a scale and a minimum."""
    run_blocks(_q5_1, blocks["payload"], 24, 32, out)


def decode_q8_0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Q8_0: int8 codes, one scale."""
    run_blocks(_q8_0, blocks["payload"], 34, 32, out)
