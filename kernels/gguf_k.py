"""GGUF's K-quants: Q2_K to Q6_K, 256 elements a super-block, scales of scales.

| type | bytes | layout, in order                                   | value                     |
|------|-------|----------------------------------------------------|---------------------------|
| Q2_K | 84    | scales[16], qs[64], d f16, dmin f16                | d * sc * q - dmin * m     |
| Q3_K | 110   | hmask[32], qs[64], scales[12], d f16               | d * (sc - 32) * (q - 4)   |
| Q4_K | 144   | d f16, dmin f16, scales[12], qs[128]               | d * sc * q - dmin * m     |
| Q5_K | 176   | d f16, dmin f16, scales[12], qh[32], qs[128]       | d * sc * q - dmin * m     |
| Q6_K | 210   | ql[128], qh[64], scales[16] int8, d f16            | d * sc * (q - 32)         |

Elements, with l from 0 to 31:

- Q2_K, Q3_K: element 128 h + 32 j + l has bits 2j, 2j+1 of qs[32 h + l]; in Q3_K bit 2 of q is bit
  4 h + j of hmask[l].
- Q4_K, Q5_K: elements 64 i + l and 64 i + 32 + l are the low and high nibble of qs[32 i + l]; in
  Q5_K bit 4 of q is bit 2 i, or 2 i + 1, of qh[l].
- Q6_K: elements 128 h + 32 j + l have as low bits the low (j < 2) or high nibble of
  ql[64 h + 32 (j mod 2) + l], and as bits 4 and 5 bits 2j, 2j+1 of qh[32 h + l].

Scales: one each 16 elements (Q4_K, Q5_K: 32). Q2_K: sc in the low nibble, m in the high one.
Q3_K: sc k has as low bits the low (k < 8) or high nibble of byte k mod 8, as bits 4 and 5 bits
2 (k div 4), + 1 of byte 8 + k mod 4. Q4_K, Q5_K, with k < 4: sc k is the low 6 bits of byte k, m k
those of byte 4 + k; sc and m 4 + k are the low and high nibble of byte 8 + k, with the top two bits
of byte k, or 4 + k, as bits 4 and 5.

Arithmetic is float32, each operation rounded, `d * sc` first. Sources: ggml's
`ggml/src/ggml-common.h` (block structs) and `ggml/src/ggml-quants.c` (`dequantize_row_*`,
`get_scale_min_k4`), https://github.com/ggml-org/llama.cpp; `gguf-py/gguf/quants.py` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.kernels import Window
from anamnesis.kernels._jit import inline, jit
from anamnesis.kernels._vector import (
    join,
    lane,
    load4,
    load8,
    load16,
    load32,
    load_half,
    repeat16,
    run_blocks,
    signed,
    store,
    to_f32,
)


@jit
def _q2_k(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 84):
        at = block * 84
        d, dmin = load_half(data, at + 80), load_half(data, at + 82)
        packed = load16(data, at)
        scales, mins = to_f32(packed & 15) * d, to_f32(packed >> 4) * dmin
        for h in range(2):
            qs = load32(data, at + 16 + 32 * h)
            for j in range(4):
                k = 8 * h + 2 * j
                q = to_f32((qs >> (2 * j)) & 3)
                store(out, block * 256 + 16 * k, q * repeat16(scales, k) - repeat16(mins, k))


@inline
def _scales_q3(data: Any, at: Any) -> Any:
    low, high = load8(data, at), load4(data, at + 8)
    pairs = join(join(high & 3, (high >> 2) & 3), join((high >> 4) & 3, high >> 6))
    return signed((join(low & 15, low >> 4) | (pairs << 4)) - 32)


@jit
def _q3_k(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 110):
        at = block * 110
        d = load_half(data, at + 108)
        scales = to_f32(_scales_q3(data, at + 96)) * d
        hmask = load32(data, at)
        for h in range(2):
            qs = load32(data, at + 32 + 32 * h)
            for j in range(4):
                k = 8 * h + 2 * j
                high = ((hmask >> (4 * h + j)) & 1) << 2
                q = signed((((qs >> (2 * j)) & 3) | high) - 4)
                store(out, block * 256 + 16 * k, to_f32(q) * repeat16(scales, k))


@inline
def _scales_mins(data: Any, at: Any) -> Any:
    first, second, third = load4(data, at), load4(data, at + 4), load4(data, at + 8)
    scales = join(first & 63, (third & 15) | ((first >> 2) & 48))
    mins = join(second & 63, (third >> 4) | ((second >> 2) & 48))
    return to_f32(scales), to_f32(mins)


@jit
def _q4_k(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 144):
        at = block * 144
        d, dmin = load_half(data, at), load_half(data, at + 2)
        sc, m = _scales_mins(data, at + 4)
        scales, mins = sc * d, m * dmin
        for i in range(4):
            qs = load32(data, at + 16 + 32 * i)
            to, k = block * 256 + 64 * i, 2 * i
            store(out, to, to_f32(qs & 15) * lane(scales, k) - lane(mins, k))
            k += 1
            store(out, to + 32, to_f32(qs >> 4) * lane(scales, k) - lane(mins, k))


@jit
def _q5_k(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 176):
        at = block * 176
        d, dmin = load_half(data, at), load_half(data, at + 2)
        sc, m = _scales_mins(data, at + 4)
        scales, mins = sc * d, m * dmin
        qh = load32(data, at + 16)
        for i in range(4):
            qs = load32(data, at + 48 + 32 * i)
            to, k = block * 256 + 64 * i, 2 * i
            q = (qs & 15) | (((qh >> k) & 1) << 4)
            store(out, to, to_f32(q) * lane(scales, k) - lane(mins, k))
            k += 1
            q = (qs >> 4) | (((qh >> k) & 1) << 4)
            store(out, to + 32, to_f32(q) * lane(scales, k) - lane(mins, k))


@jit
def _q6_k(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 210):
        at = block * 210
        d = load_half(data, at + 208)
        scales = to_f32(signed(load16(data, at + 192))) * d
        for h in range(2):
            qh = load32(data, at + 128 + 32 * h)
            for j in range(2):
                ql = load32(data, at + 64 * h + 32 * j)
                k = 8 * h + 2 * j
                q = signed(((ql & 15) | (((qh >> (2 * j)) & 3) << 4)) - 32)
                store(out, block * 256 + 16 * k, to_f32(q) * repeat16(scales, k))
                k += 4
                q = signed(((ql >> 4) | (((qh >> (2 * j + 4)) & 3) << 4)) - 32)
                store(out, block * 256 + 16 * k, to_f32(q) * repeat16(scales, k))


def decode_q2_k(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q2_K: 2-bit codes, 4-bit scales and minima."""
    run_blocks(_q2_k, blocks["payload"], 84, 256, out)


def decode_q3_k(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q3_K: 3-bit codes around 4, 6-bit scales around 32."""
    run_blocks(_q3_k, blocks["payload"], 110, 256, out)


def decode_q4_k(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q4_K: 4-bit codes, 6-bit scales and minima."""
    run_blocks(_q4_k, blocks["payload"], 144, 256, out)


def decode_q5_k(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q5_K: 5-bit codes, 6-bit scales and minima."""
    run_blocks(_q5_k, blocks["payload"], 176, 256, out)


def decode_q6_k(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q6_K: 6-bit codes around 32, 8-bit scales."""
    run_blocks(_q6_k, blocks["payload"], 210, 256, out)
