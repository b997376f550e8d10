"""Bodies of `kernels/encode_gguf_k.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX, clamped, half_bits, nearest, put_half
from anamnesis.kernels.bodies._ggml_search import (
    search_signed,
    search_signed_3,
    search_with_minimum,
)
from anamnesis.kernels.bodies._jit import inline, jit, local, stack, variants
from anamnesis.kernels.bodies.bits import f16_bits_to_f32

_i32 = np.int32
_f32 = np.float32

_codes, _tried, _weights = stack(1024), stack(128), stack(128)
_scales, _minimums = stack(64), stack(64)


@inline
def _spread(codes: Any, shifts: Any, out: Any, at: Any) -> None:
    """Two bits of each of 256 codes, after `shifts`, four elements 32 apart a byte."""
    for i in range(64):
        first = i // 32 * 128 + i % 32
        byte = 0
        for j in range(4):
            byte |= (codes[first + 32 * j] >> shifts & 3) << (2 * j)
        out[at + i] = np.uint8(byte)


@jit
def q2_k(values: Any, out: Any) -> None:
    """Q2_K: scales and minima in halves of 16 bytes, codes of two bits, `d` and `dmin` f16."""
    codes, tried = local(_codes(), 256, _i32), local(_tried(), 32, _i32)
    weights = local(_weights(), 32, _f32)
    scales, minimums = local(_scales(), 16, _f32), local(_minimums(), 16, _f32)
    for b in range(values.shape[0] // 256):
        at, base = 84 * b, 256 * b
        most_scale, most_minimum = _f32(0), _f32(0)
        for j in range(16):
            for i in range(16):
                weights[i] = abs(values[base + 16 * j + i])
            found = search_with_minimum(
                values, base + 16 * j, 16, 3, weights, codes, 16 * j, tried, _f32(-0.5), 15, True
            )
            scales[j], minimums[j] = found
            most_scale = scales[j] if scales[j] > most_scale else most_scale
            most_minimum = minimums[j] if minimums[j] > most_minimum else most_minimum
        inverse = np.divide(_f32(15), most_scale) if most_scale > 0 else _f32(0)
        inverse_minimum = np.divide(_f32(15), most_minimum) if most_minimum > 0 else _f32(0)
        for j in range(16):
            low = nearest(inverse * scales[j]) if most_scale > 0 else _i32(0)
            high = nearest(inverse_minimum * minimums[j]) if most_minimum > 0 else _i32(0)
            out[at + j] = np.uint8((low | high << 4) & 0xFF)
        d_bits = half_bits(most_scale / _f32(15)) if most_scale > 0 else half_bits(_f32(0))
        m_bits = half_bits(most_minimum / _f32(15)) if most_minimum > 0 else half_bits(_f32(0))
        put_half(out, at + 80, d_bits)
        put_half(out, at + 82, m_bits)
        whole, least = f16_bits_to_f32(d_bits), f16_bits_to_f32(m_bits)
        for j in range(16):
            d = _f32(whole * _f32(_i32(out[at + j] & 0xF)))
            if d != 0:
                m = _f32(least * _f32(_i32(out[at + j] >> 4)))
                for i in range(16):
                    value = np.divide(_f32(values[base + 16 * j + i] + m), d)
                    codes[16 * j + i] = clamped(nearest(value), 0, 3)
        _spread(codes, 0, out, at + 16)


@jit
def q3_k(values: Any, out: Any) -> None:
    """Q3_K: a bit of each code, two bits of each, scales of six bits, `d` f16."""
    codes, scales = local(_codes(), 256, _i32), local(_scales(), 16, _f32)
    for b in range(values.shape[0] // 256):
        at, base = 110 * b, 256 * b
        most, signed = _f32(0), _f32(0)
        for j in range(16):
            scales[j] = search_signed_3(values, base + 16 * j, codes, 16 * j)
            if abs(scales[j]) > most:
                most, signed = abs(scales[j]), scales[j]
        for i in range(12):
            out[at + 96 + i] = np.uint8(0)
        bits = half_bits(_f32(0))
        if signed != 0:
            inverse = np.divide(_f32(-32), signed)
            for j in range(16):
                wrapped = _i32(_i32(nearest(inverse * scales[j]) & 0xFF) ^ _i32(0x80)) - _i32(0x80)
                low = clamped(wrapped, -32, 31) + 32
                if j < 8:
                    out[at + 96 + j] = np.uint8(low & 0xF)
                else:
                    out[at + 88 + j] |= np.uint8((low & 0xF) << 4)
                out[at + 104 + j % 4] |= np.uint8((low >> 4) << (2 * (j // 4)))
            bits = half_bits(np.divide(_f32(1), inverse))
        put_half(out, at + 108, bits)
        whole = f16_bits_to_f32(bits)
        for j in range(16):
            low = _i32(out[at + 96 + j]) & 0xF if j < 8 else _i32(out[at + 88 + j]) >> 4
            high = _i32(out[at + 104 + j % 4]) >> (2 * (j // 4)) & 3
            d = _f32(whole * _f32(_i32((low | high << 4) - 32)))
            if d != 0:
                for i in range(16):
                    code = nearest(np.divide(values[base + 16 * j + i], d))
                    codes[16 * j + i] = clamped(code, -4, 3) + 4
        for i in range(32):
            byte = 0
            for j in range(8):
                if codes[32 * j + i] > 3:
                    byte |= 1 << j
                    codes[32 * j + i] -= 4
            out[at + i] = np.uint8(byte)
        _spread(codes, 0, out, at + 32)


@variants
def with_minimums(most: int) -> Any:
    """Q4_K (`most` 15) and Q5_K (31)."""
    four = most == 15
    nbytes = 144 if four else 176
    start, steps = (-1.0, 20) if four else (-0.5, 15)

    def run(values: Any, out: Any) -> None:
        codes, tried = local(_codes(), 256, _i32), local(_tried(), 32, _i32)
        weights = local(_weights(), 32, _f32)
        scales, minimums = local(_scales(), 8, _f32), local(_minimums(), 8, _f32)
        for b in range(values.shape[0] // 256):
            at, base = nbytes * b, 256 * b
            most_scale, most_minimum = _f32(0), _f32(0)
            for j in range(8):
                total = _f32(0)
                for i in range(32):
                    value = values[base + 32 * j + i]
                    total = _f32(total + _f32(value * value))
                mean = np.sqrt(_f32(total / _f32(32)))
                for i in range(32):
                    weights[i] = mean + abs(values[base + 32 * j + i])
                found = search_with_minimum(
                    values,
                    base + 32 * j,
                    32,
                    most,
                    weights,
                    codes,
                    32 * j,
                    tried,
                    _f32(start),
                    steps,
                    False,
                )
                scales[j], minimums[j] = found
                most_scale = scales[j] if scales[j] > most_scale else most_scale
                most_minimum = minimums[j] if minimums[j] > most_minimum else most_minimum
            inverse = np.divide(_f32(63), most_scale) if most_scale > 0 else _f32(0)
            inverse_minimum = np.divide(_f32(63), most_minimum) if most_minimum > 0 else _f32(0)
            for j in range(8):
                low = min(63, nearest(inverse * scales[j]) & 0xFF)
                high = min(63, nearest(inverse_minimum * minimums[j]) & 0xFF)
                if j < 4:
                    out[at + 4 + j] = np.uint8(low)
                    out[at + 8 + j] = np.uint8(high)
                else:
                    out[at + 8 + j] = np.uint8((low & 0xF) | (high & 0xF) << 4)
                    out[at + j] |= np.uint8((low >> 4) << 6)
                    out[at + 4 + j] |= np.uint8((high >> 4) << 6)
            d_bits = half_bits(_f32(most_scale / _f32(63)))
            m_bits = half_bits(_f32(most_minimum / _f32(63)))
            put_half(out, at, d_bits)
            put_half(out, at + 2, m_bits)
            whole, least = f16_bits_to_f32(d_bits), f16_bits_to_f32(m_bits)
            for j in range(8):
                if j < 4:
                    low, high = _i32(out[at + 4 + j]) & 63, _i32(out[at + 8 + j]) & 63
                else:
                    both = _i32(out[at + 8 + j])
                    low = (both & 0xF) | (_i32(out[at + j]) >> 6) << 4
                    high = (both >> 4) | (_i32(out[at + 4 + j]) >> 6) << 4
                d = _f32(whole * _f32(_i32(low)))
                if d != 0:
                    m = _f32(least * _f32(_i32(high)))
                    for i in range(32):
                        value = np.divide(_f32(values[base + 32 * j + i] + m), d)
                        codes[32 * j + i] = clamped(nearest(value), 0, most)
            if four:
                _nibbles(codes, out, at + 16)
            else:
                _nibbles(codes, out, at + 48)
                for i in range(32):
                    byte = 0
                    for j in range(8):
                        byte |= (codes[32 * j + i] >> 4 & 1) << j
                    out[at + 16 + i] = np.uint8(byte)

    return run


@inline
def _nibbles(codes: Any, out: Any, at: Any) -> None:
    """Four bits of each of 256 codes, two elements 32 apart a byte."""
    for i in range(128):
        first = i // 32 * 64 + i % 32
        out[at + i] = np.uint8((codes[first] & 0xF) | (codes[first + 32] & 0xF) << 4)


@jit
def q6_k(values: Any, out: Any) -> None:
    """Q6_K: four bits of each code, two bits of each, int8 scales, `d` f16."""
    codes, scales = local(_codes(), 256, _i32), local(_scales(), 16, _f32)
    for b in range(values.shape[0] // 256):
        at, base = 210 * b, 256 * b
        most, signed = _f32(0), _f32(0)
        for j in range(16):
            scales[j] = search_signed(values, base + 16 * j, 16, 32, codes, 16 * j)
            if abs(scales[j]) > most:
                most, signed = abs(scales[j]), scales[j]
        if most < LEAST_MAX:
            for i in range(210):
                out[at + i] = np.uint8(0)
            continue
        inverse = np.divide(_f32(-128), signed)
        bits = half_bits(np.divide(_f32(1), inverse))
        put_half(out, at + 208, bits)
        whole = f16_bits_to_f32(bits)
        for j in range(16):
            scale = min(127, nearest(inverse * scales[j])) & 0xFF
            out[at + 192 + j] = np.uint8(scale)
            d = _f32(whole * _f32(_i32((scale ^ 0x80) - 0x80)))
            if d != 0:
                for i in range(16):
                    code = nearest(np.divide(values[base + 16 * j + i], d))
                    codes[16 * j + i] = clamped(code, -32, 31) + 32
        for i in range(64):
            first = i // 32 * 128 + i % 32
            low = at + i // 32 * 64 + i % 32
            c0, c1 = codes[first], codes[first + 32]
            c2, c3 = codes[first + 64], codes[first + 96]
            out[low] = np.uint8((c0 & 0xF) | (c2 & 0xF) << 4)
            out[low + 32] = np.uint8((c1 & 0xF) | (c3 & 0xF) << 4)
            high = (c0 >> 4) | (c1 >> 4) << 2 | (c2 >> 4) << 4 | (c3 >> 4) << 6
            out[at + 128 + i] = np.uint8(high & 0xFF)
