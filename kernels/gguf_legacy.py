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

from collections.abc import Mapping
from typing import Any

from anamnesis.kernels import Window
from anamnesis.kernels._jit import inline, jit
from anamnesis.kernels._vector import (
    join,
    load16,
    load32,
    load_bits32,
    load_half,
    run_blocks,
    signed,
    store,
    to_f32,
)


@inline
def _nibbles(data: Any, at: Any) -> Any:
    qs = load16(data, at)
    return join(qs & 15, qs >> 4)


# Scales come first: converting one branches, and a vector that lives across branches can be torn
# to scalars where the CPU has no register of its shape (the 32 bits of qh did: three times slower).


@jit
def _q4_0(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 18):
        at = block * 18
        d = load_half(data, at)
        q = signed(_nibbles(data, at + 2) - 8)
        store(out, block * 32, to_f32(q) * d)


@jit
def _q4_1(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 20):
        at = block * 20
        d, m = load_half(data, at), load_half(data, at + 2)
        q = _nibbles(data, at + 4)
        store(out, block * 32, to_f32(q) * d + m)


@jit
def _q5_0(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 22):
        at = block * 22
        d = load_half(data, at)
        q = signed((_nibbles(data, at + 6) | (load_bits32(data, at + 2) << 4)) - 16)
        store(out, block * 32, to_f32(q) * d)


@jit
def _q5_1(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 24):
        at = block * 24
        d, m = load_half(data, at), load_half(data, at + 2)
        q = _nibbles(data, at + 8) | (load_bits32(data, at + 4) << 4)
        store(out, block * 32, to_f32(q) * d + m)


@jit
def _q8_0(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 34):
        at = block * 34
        d = load_half(data, at)
        q = signed(load32(data, at + 2))
        store(out, block * 32, to_f32(q) * d)


def decode_q4_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q4_0: 4-bit codes around 8, one scale."""
    run_blocks(_q4_0, blocks["payload"], 18, 32, out)


def decode_q4_1(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q4_1: 4-bit codes, a scale and a minimum."""
    run_blocks(_q4_1, blocks["payload"], 20, 32, out)


def decode_q5_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q5_0: 5-bit codes around 16, one scale."""
    run_blocks(_q5_0, blocks["payload"], 22, 32, out)


def decode_q5_1(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q5_1: 5-bit codes, a scale and a minimum."""
    run_blocks(_q5_1, blocks["payload"], 24, 32, out)


def decode_q8_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q8_0: int8 codes, one scale."""
    run_blocks(_q8_0, blocks["payload"], 34, 32, out)
