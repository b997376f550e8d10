"""What is stored of K types' super-blocks, whatever their scales were found by.

Elements of a super-block go side by side (`_lanes`); layouts are in `kernels/gguf_k.py`.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._ggml import put_half
from anamnesis.kernels.bodies._ggml_lanes import codes_above, nearest_lanes
from anamnesis.kernels.bodies._jit import inline, local, stack
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_lanes
from anamnesis.kernels.bodies._lanes import between, splat
from anamnesis.kernels.bodies.bits import f16_bits_to_f32
from anamnesis.kernels.types import Bytes, Floats, Ints

_i32 = np.int32
_f32 = np.float32

_codes = stack(1024)


@inline
def spread(codes: Ints, out: Bytes, at: int) -> None:
    """Two bits of each of 256 codes, four elements 32 apart a byte."""
    for i in range(0, 64, 16):
        first = i // 32 * 128 + i % 32
        # Bits 2 j, 2 j + 1 of byte l of half h are element 128 h + 32 j + l.
        pairs = lanes(codes, first) & 3 | (lanes(codes, first + 32) & 3) << 2
        more = (lanes(codes, first + 64) & 3) << 4 | (lanes(codes, first + 96) & 3) << 6
        put_bytes(out, at + i, pairs | more)


@inline
def nibbles(codes: Ints, out: Bytes, at: int) -> None:
    """Four bits of each of 256 codes, two elements 32 apart a byte."""
    for i in range(0, 128, 16):
        first = i // 32 * 64 + i % 32
        # Byte 32 k + l: element 64 k + l in the low half, 64 k + 32 + l in the high one.
        put_bytes(out, at + i, lanes(codes, first) & 15 | (lanes(codes, first + 32) & 15) << 4)


@inline
def found_again(
    values: Floats,
    first: int,
    count: int,
    most: int,
    scale: tuple[np.float32, np.float32],
    before: tuple[np.float32, np.float32],
    codes: Ints,
    at: int,
) -> None:
    """Codes from `at` on, of `count` numbers, under a scale and a minimum as they are stored.

    Under a scale of 0 they are those of the search: `before` has its inverse and least number.
    """
    d, minimum = scale
    inverse, least = before
    for i in range(0, count, 16):
        numbers = lanes(values, first + i)
        if d != 0:
            found = between(nearest_lanes((numbers + minimum) / d), 0, most)
        else:
            found = codes_above(numbers, splat(inverse), splat(least), most)
        put_lanes(codes, at + i, found)


@inline
def store_2(
    values: Floats,
    base: int,
    halves: tuple[np.uint32, np.uint32],
    before: tuple[Floats, Floats],
    out: Bytes,
    at: int,
) -> None:
    """A block of Q2_K whose bytes of scales are there, under `d` and `dmin` of `halves`."""
    codes = local(_codes(), 256, _i32)
    inverses, leasts = before
    d_bits, m_bits = halves
    put_half(out, at + 80, d_bits)
    put_half(out, at + 82, m_bits)
    whole, under = f16_bits_to_f32(d_bits), f16_bits_to_f32(m_bits)
    for j in range(16):
        # Byte j of scales: the scale in the low half, the minimum in the high one.
        d = _f32(whole * _f32(_i32(out[at + j] & 0xF)))
        m = _f32(under * _f32(_i32(out[at + j] >> 4)))
        own = inverses[j], leasts[j]
        found_again(values, base + 16 * j, 16, 3, (d, m), own, codes, 16 * j)
    spread(codes, out, at + 16)


@inline
def put_scales_3(low: int, j: int, out: Bytes, at: int) -> None:
    """The six bits of Q3_K's scale j, into bytes that are 0 before the first."""
    # scales[12]: bits 0-3 of scale j in byte j % 8, low half for j < 8; bits 4, 5 in byte 8 + j %
    # 4, at bit 2 (j / 4).
    if j < 8:
        out[at + 96 + j] = np.uint8(low & 0xF)
    else:
        out[at + 88 + j] |= np.uint8((low & 0xF) << 4)
    out[at + 104 + j % 4] |= np.uint8((low >> 4) << (2 * (j // 4)))


@inline
def store_3(values: Floats, base: int, tried: Floats, bits: np.uint32, out: Bytes, at: int) -> None:
    """A block of Q3_K whose scales are there; under a scale of 0 codes are those `tried`."""
    codes = local(_codes(), 256, _i32)
    put_half(out, at + 108, bits)
    whole = f16_bits_to_f32(bits)
    for j in range(16):
        low = _i32(out[at + 96 + j]) & 0xF if j < 8 else _i32(out[at + 88 + j]) >> 4
        high = _i32(out[at + 104 + j % 4]) >> (2 * (j // 4)) & 3
        d = _f32(whole * _f32(_i32((low | high << 4) - 32)))
        if d != 0:
            again = between(nearest_lanes(lanes(values, base + 16 * j) / d), -4, 3)
            put_lanes(codes, 16 * j, again + 4)
        else:
            for i in range(16):
                codes[16 * j + i] = _i32(tried[i, j]) + 4
    for i in range(0, 32, 16):
        byte = splat(0)
        for j in range(8):
            # hmask: bit j of byte l is bit 2 of element 32 j + l.
            byte = byte | (lanes(codes, 32 * j + i) >> 2 & 1) << j
        put_bytes(out, at + i, byte)
    spread(codes, out, at + 32)


@inline
def store_with_minimums(
    values: Floats,
    base: int,
    found: tuple[Ints, Ints, tuple[np.uint32, np.uint32]],
    before: tuple[Floats, Floats],
    most: int,
    out: Bytes,
    at: int,
) -> None:
    """A block of Q4_K (`most` 15) or Q5_K (31).

    `found` are scales and minima of six bits, and the bits of `d` and `dmin`.
    """
    codes = local(_codes(), 256, _i32)
    lows, highs, halves = found
    inverses, leasts = before
    for j in range(8):
        low, high = lows[j], highs[j]
        # scales[12]: six bits of scale j < 4 in byte j, of minimum j in byte 4 + j; of the others
        # bits 0-3 share byte 4 + j, and bits 4, 5 are bits 6, 7 of bytes j - 4 and j.
        if j < 4:
            out[at + 4 + j] = np.uint8(low)
            out[at + 8 + j] = np.uint8(high)
        else:
            out[at + 8 + j] = np.uint8((low & 0xF) | (high & 0xF) << 4)
            out[at + j] |= np.uint8((low >> 4) << 6)
            out[at + 4 + j] |= np.uint8((high >> 4) << 6)
    d_bits, m_bits = halves
    put_half(out, at, d_bits)
    put_half(out, at + 2, m_bits)
    whole, under = f16_bits_to_f32(d_bits), f16_bits_to_f32(m_bits)
    for j in range(8):
        d, m = _f32(whole * _f32(lows[j])), _f32(under * _f32(highs[j]))
        own = inverses[j], leasts[j]
        found_again(values, base + 32 * j, 32, most, (d, m), own, codes, 32 * j)
    if most == 15:
        nibbles(codes, out, at + 16)
    else:
        nibbles(codes, out, at + 48)
        for i in range(0, 32, 16):
            byte = splat(0)
            for j in range(8):
                # qh: bit j of byte l is bit 4 of element 32 j + l.
                byte = byte | (lanes(codes, 32 * j + i) >> 4 & 1) << j
            put_bytes(out, at + 16 + i, byte)
