"""Bodies of `kernels/gguf_k.py`, which has the layout."""

from __future__ import annotations

from typing import Any

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._vector import (
    join,
    lane,
    load4,
    load8,
    load16,
    load32,
    load_half,
    repeat16,
    signed,
    store,
    to_f32,
)
from anamnesis.kernels.types import Array, Bytes


@jit
def q2_k(data: Bytes, out: Array) -> None:
    """Q2_K: scales[16], qs[64], d f16, dmin f16."""
    for block in range(data.shape[0] // 84):
        at = block * 84
        d, dmin = load_half(data, at + 80), load_half(data, at + 82)
        # Byte k: the scale in its low half, the minimum in its high one.
        packed = load16(data, at)
        scales, mins = to_f32(packed & 15) * d, to_f32(packed >> 4) * dmin
        for h in range(2):
            qs = load32(data, at + 16 + 32 * h)
            for j in range(4):
                k = 8 * h + 2 * j
                # Bits 2 j, 2 j + 1 of byte l of half h are element 128 h + 32 j + l.
                q = to_f32((qs >> (2 * j)) & 3)
                store(out, block * 256 + 16 * k, q * repeat16(scales, k) - repeat16(mins, k))


@inline
def _scales_q3(data: Bytes, at: int) -> Any:
    # Scale k, of 6 bits and 32 more than it is: its low four are half k // 8 of byte k % 8,
    # its high two bits 2 (k // 4) and up of byte 8 + k % 4.
    low, high = load8(data, at), load4(data, at + 8)
    pairs = join(join(high & 3, (high >> 2) & 3), join((high >> 4) & 3, high >> 6))
    return signed((join(low & 15, low >> 4) | (pairs << 4)) - 32)


@jit
def q3_k(data: Bytes, out: Array) -> None:
    """Q3_K: hmask[32], qs[64], scales[12], d f16."""
    for block in range(data.shape[0] // 110):
        at = block * 110
        d = load_half(data, at + 108)
        scales = to_f32(_scales_q3(data, at + 96)) * d
        hmask = load32(data, at)
        for h in range(2):
            qs = load32(data, at + 32 + 32 * h)
            for j in range(4):
                k = 8 * h + 2 * j
                # Bit 4 h + j of hmask[l] is bit 2, bits 2 j and 2 j + 1 of qs the low ones.
                high = ((hmask >> (4 * h + j)) & 1) << 2
                q = signed((((qs >> (2 * j)) & 3) | high) - 4)
                store(out, block * 256 + 16 * k, to_f32(q) * repeat16(scales, k))


@inline
def _scales_mins(data: Bytes, at: int) -> Any:
    # Of 6 bits each. Scales 0 to 3 are the low bits of bytes 0 to 3, minimums 0 to 3 those of 4 to
    # 7; scale and minimum k + 4 the halves of byte k + 8, under the top bits of k and of k + 4.
    first, second, third = load4(data, at), load4(data, at + 4), load4(data, at + 8)
    scales = join(first & 63, (third & 15) | ((first >> 2) & 48))
    mins = join(second & 63, (third >> 4) | ((second >> 2) & 48))
    return to_f32(scales), to_f32(mins)


@jit
def q4_k(data: Bytes, out: Array) -> None:
    """Q4_K: d f16, dmin f16, scales[12], qs[128]."""
    for block in range(data.shape[0] // 144):
        at = block * 144
        d, dmin = load_half(data, at), load_half(data, at + 2)
        sc, m = _scales_mins(data, at + 4)
        scales, mins = sc * d, m * dmin
        for i in range(4):
            qs = load32(data, at + 16 + 32 * i)
            # The low half of qs[32 i + l] is element 64 i + l, the high one 64 i + 32 + l.
            to, k = block * 256 + 64 * i, 2 * i
            store(out, to, to_f32(qs & 15) * lane(scales, k) - lane(mins, k))
            k += 1
            store(out, to + 32, to_f32(qs >> 4) * lane(scales, k) - lane(mins, k))


@jit
def q5_k(data: Bytes, out: Array) -> None:
    """Q5_K: d f16, dmin f16, scales[12], qh[32], qs[128]."""
    for block in range(data.shape[0] // 176):
        at = block * 176
        d, dmin = load_half(data, at), load_half(data, at + 2)
        sc, m = _scales_mins(data, at + 4)
        scales, mins = sc * d, m * dmin
        qh = load32(data, at + 16)
        for i in range(4):
            qs = load32(data, at + 48 + 32 * i)
            to, k = block * 256 + 64 * i, 2 * i
            # As Q4_K; bit k of qh[l] is bit 4 of element 32 k + l.
            q = (qs & 15) | (((qh >> k) & 1) << 4)
            store(out, to, to_f32(q) * lane(scales, k) - lane(mins, k))
            k += 1
            q = (qs >> 4) | (((qh >> k) & 1) << 4)
            store(out, to + 32, to_f32(q) * lane(scales, k) - lane(mins, k))


@jit
def q6_k(data: Bytes, out: Array) -> None:
    """Q6_K: ql[128], qh[64], scales[16] int8, d f16."""
    for block in range(data.shape[0] // 210):
        at = block * 210
        d = load_half(data, at + 208)
        scales = to_f32(signed(load16(data, at + 192))) * d
        for h in range(2):
            qh = load32(data, at + 128 + 32 * h)
            for j in range(2):
                ql = load32(data, at + 64 * h + 32 * j)
                k = 8 * h + 2 * j
                # Low halves of ql are elements 128 h + 32 j + l, high ones are 64 further; bits
                # 4 and 5 are bits 2 j, 2 j + 1 of qh[l], and those four further.
                q = signed(((ql & 15) | (((qh >> (2 * j)) & 3) << 4)) - 32)
                store(out, block * 256 + 16 * k, to_f32(q) * repeat16(scales, k))
                k += 4
                q = signed(((ql >> 4) | (((qh >> (2 * j + 4)) & 3) << 4)) - 32)
                store(out, block * 256 + 16 * k, to_f32(q) * repeat16(scales, k))
