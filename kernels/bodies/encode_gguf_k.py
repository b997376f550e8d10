"""Bodies of `kernels/encode_gguf_k.py`, which has the layout.

`groups` are the same numbers as `values`, a group a row. Scales are searched for in sixteen groups
side by side; what is stored of a super-block is made one after the other, in elements side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX, clamped, half_bits, nearest, put_half
from anamnesis.kernels.bodies._ggml_lanes import (
    nearest_lanes,
    search_signed,
    search_signed_3,
    search_with_minimum,
    squares,
)
from anamnesis.kernels.bodies._ggml_store import put_scales_3, store_2, store_3, store_with_minimums
from anamnesis.kernels.bodies._jit import inline, jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_lanes
from anamnesis.kernels.bodies._lanes import between, groups_of, root, size_of, some_groups_of, splat
from anamnesis.kernels.bodies.bits import f16_bits_to_f32
from anamnesis.kernels.types import Bytes, Floats

_i32 = np.int32
_f32 = np.float32

_x, _weights, _tried, _tail = stack(2048), stack(2048), stack(2048), stack(2048)
_codes = stack(1024)
_lows, _highs = stack(32), stack(32)
_scales, _minimums, _inverses, _leasts = stack(128), stack(64), stack(64), stack(64)


@jit
def q2_k(values: Floats, groups: Floats, out: Bytes) -> None:
    """Q2_K: scales and minima in halves of 16 bytes, codes of two bits, `d` and `dmin` f16."""
    x, weights = local(_x(), (16, 16), _f32), local(_weights(), (16, 16), _f32)
    tried = local(_tried(), (16, 16), _f32)
    scales, minimums = local(_scales(), 16, _f32), local(_minimums(), 16, _f32)
    inverses, leasts = local(_inverses(), 16, _f32), local(_leasts(), 16, _f32)
    for b in range(values.shape[0] // 256):
        at, base = 84 * b, 256 * b
        groups_of(groups, 16 * b, 16, x)
        for i in range(16):
            put_lanes(weights, 16 * i, size_of(lanes(x, 16 * i)))
        scale, minimum, inverse, least = search_with_minimum(
            x, weights, tried, 16, 3, (_f32(-0.5), _f32(0.1), 15), True
        )
        put_lanes(scales, 0, scale)
        put_lanes(minimums, 0, splat(_f32(-1)) * minimum)
        put_lanes(inverses, 0, inverse)
        put_lanes(leasts, 0, least)
        most_scale, most_minimum = _f32(0), _f32(0)
        for j in range(16):
            most_scale = scales[j] if scales[j] > most_scale else most_scale
            most_minimum = minimums[j] if minimums[j] > most_minimum else most_minimum
        up = np.divide(_f32(15), most_scale) if most_scale > 0 else _f32(0)
        up_minimum = np.divide(_f32(15), most_minimum) if most_minimum > 0 else _f32(0)
        for j in range(16):
            low = nearest(up * scales[j]) if most_scale > 0 else _i32(0)
            high = nearest(up_minimum * minimums[j]) if most_minimum > 0 else _i32(0)
            # Byte j: the scale in the low half, the minimum in the high one.
            out[at + j] = np.uint8((low | high << 4) & 0xFF)
        d_bits = half_bits(most_scale / _f32(15)) if most_scale > 0 else half_bits(_f32(0))
        m_bits = half_bits(most_minimum / _f32(15)) if most_minimum > 0 else half_bits(_f32(0))
        store_2(values, base, (d_bits, m_bits), (inverses, leasts), out, at)


@jit
def q3_k(values: Floats, groups: Floats, out: Bytes) -> None:
    """Q3_K: a bit of each code, two bits of each, scales of six bits, `d` f16."""
    x, tried = local(_x(), (32, 16), _f32), local(_tried(), (32, 16), _f32)
    scales = local(_scales(), 32, _f32)
    blocks = values.shape[0] // 256
    for b in range(0, blocks, 2):
        groups_of(groups, 16 * b, 16, x[:16])
        groups_of(groups, 16 * min(b + 1, blocks - 1), 16, x[16:])
        first, second = search_signed_3(x, tried)
        put_lanes(scales, 0, first)
        put_lanes(scales, 16, second)
        for k in range(min(2, blocks - b)):
            found = scales[16 * k : 16 * k + 16], tried[16 * k : 16 * k + 16]
            _store_3(values, 256 * (b + k), found, out, 110 * (b + k))


@inline
def _store_3(values: Floats, base: int, found: tuple[Floats, Floats], out: Bytes, at: int) -> None:
    """A block of Q3_K, of the scales and codes that were found."""
    scales, tried = found
    most, signed = _f32(0), _f32(0)
    for j in range(16):
        if abs(scales[j]) > most:
            most, signed = abs(scales[j]), scales[j]
    for i in range(12):
        out[at + 96 + i] = np.uint8(0)
    bits = half_bits(_f32(0))
    if signed != 0:
        inverse = np.divide(_f32(-32), signed)
        for j in range(16):
            # ggml's variable is an int8, which wraps before it is clamped.
            wrapped = _i32(_i32(nearest(inverse * scales[j]) & 0xFF) ^ _i32(0x80)) - _i32(0x80)
            low = clamped(wrapped, -32, 31) + 32
            put_scales_3(low, j, out, at)
        bits = half_bits(np.divide(_f32(1), inverse))
    store_3(values, base, tried, bits, out, at)


@variants
def with_minimums(most: int) -> Any:
    """Q4_K (`most` 15) and Q5_K (31)."""
    nbytes = 144 if most == 15 else 176
    start, last = (-1.0, 20) if most == 15 else (-0.5, 15)

    def run(values: Floats, groups: Floats, out: Bytes) -> None:
        x, weights = local(_x(), (32, 16), _f32), local(_weights(), (32, 16), _f32)
        tried, tail = local(_tried(), (32, 16), _f32), local(_tail(), (16, 32), _f32)
        scales, minimums = local(_scales(), 16, _f32), local(_minimums(), 16, _f32)
        inverses, leasts = local(_inverses(), 16, _f32), local(_leasts(), 16, _f32)
        blocks = values.shape[0] // 256
        for b in range(0, blocks, 2):
            some_groups_of(groups, 8 * b, 32, tail, x)
            mean = root(squares(x, 32) / _f32(32))
            for i in range(32):
                put_lanes(weights, 16 * i, mean + size_of(lanes(x, 16 * i)))
            scale, minimum, inverse, least = search_with_minimum(
                x, weights, tried, 32, most, (_f32(start), _f32(0.1), last), False
            )
            put_lanes(scales, 0, scale)
            put_lanes(minimums, 0, splat(_f32(-1)) * minimum)
            put_lanes(inverses, 0, inverse)
            put_lanes(leasts, 0, least)
            for k in range(min(2, blocks - b)):
                found = scales[8 * k : 8 * k + 8], minimums[8 * k : 8 * k + 8]
                before = inverses[8 * k : 8 * k + 8], leasts[8 * k : 8 * k + 8]
                store(values, 256 * (b + k), found, before, out, nbytes * (b + k))

    def store(
        values: Floats,
        base: int,
        found: tuple[Floats, Floats],
        before: tuple[Floats, Floats],
        out: Bytes,
        at: int,
    ) -> None:
        lows, highs = local(_lows(), 8, _i32), local(_highs(), 8, _i32)
        scales, minimums = found
        most_scale, most_minimum = _f32(0), _f32(0)
        for j in range(8):
            most_scale = scales[j] if scales[j] > most_scale else most_scale
            most_minimum = minimums[j] if minimums[j] > most_minimum else most_minimum
        up = np.divide(_f32(63), most_scale) if most_scale > 0 else _f32(0)
        up_minimum = np.divide(_f32(63), most_minimum) if most_minimum > 0 else _f32(0)
        for j in range(8):
            # ggml's variable is a uint8, which wraps before it is clamped.
            low = min(63, nearest(up * scales[j]) & 0xFF)
            high = min(63, nearest(up_minimum * minimums[j]) & 0xFF)
            lows[j], highs[j] = low, high
        bits = half_bits(_f32(most_scale / _f32(63))), half_bits(_f32(most_minimum / _f32(63)))
        store_with_minimums(values, base, (lows, highs, bits), before, most, out, at)

    store = inline(store)
    return run


@variants
def q6_k(weighted: int) -> Any:
    """Q6_K: four bits of each code, two bits of each, int8 scales, `d` f16.

    Unless it is `weighted`, squares of the numbers take the place of `columns`.
    """

    def run(values: Floats, groups: Floats, columns: Floats, out: Bytes) -> None:
        x, weights = local(_x(), (16, 16), _f32), local(_weights(), (16, 16), _f32)
        codes, scales = local(_codes(), 256, _i32), local(_scales(), 16, _f32)
        inverses = local(_inverses(), 16, _f32)
        for b in range(values.shape[0] // 256):
            at, base = 210 * b, 256 * b
            groups_of(groups, 16 * b, 16, x)
            if weighted:
                groups_of(columns, 16 * b, 16, weights)
            else:
                for i in range(16):
                    put_lanes(weights, 16 * i, lanes(x, 16 * i) * lanes(x, 16 * i))
            scale, inverse = search_signed(x, weights, 16, 32)
            put_lanes(scales, 0, scale)
            put_lanes(inverses, 0, inverse)
            most, signed = _f32(0), _f32(0)
            for j in range(16):
                if abs(scales[j]) > most:
                    most, signed = abs(scales[j]), scales[j]
            if most < LEAST_MAX:
                for i in range(210):
                    out[at + i] = np.uint8(0)
                continue
            up = np.divide(_f32(-128), signed)
            bits = half_bits(np.divide(_f32(1), up))
            put_half(out, at + 208, bits)
            whole = f16_bits_to_f32(bits)
            for j in range(16):
                stored = min(127, nearest(up * scales[j])) & 0xFF
                out[at + 192 + j] = np.uint8(stored)
                d = _f32(whole * _f32(_i32((stored ^ 0x80) - 0x80)))
                numbers = lanes(values, base + 16 * j)
                if d != 0:
                    found = between(nearest_lanes(numbers / d), -32, 31) + 32
                elif inverses[j] != 0:
                    found = between(nearest_lanes(numbers * inverses[j]), -32, 31) + 32
                else:
                    found = splat(0)
                put_lanes(codes, 16 * j, found)
            for i in range(0, 64, 16):
                first = i // 32 * 128 + i % 32
                low = at + i // 32 * 64 + i % 32
                c0, c1 = lanes(codes, first), lanes(codes, first + 32)
                c2, c3 = lanes(codes, first + 64), lanes(codes, first + 96)
                # ql: byte 64 h + l has elements 128 h + l (low half) and 128 h + 64 + l (high
                # half), byte 64 h + 32 + l those 32 further.
                put_bytes(out, low, c0 & 15 | (c2 & 15) << 4)
                put_bytes(out, low + 32, c1 & 15 | (c3 & 15) << 4)
                # qh: bits 2 j, 2 j + 1 of byte 32 h + l are bits 4, 5 of element 128 h + 32 j + l.
                high = c0 >> 4 | (c1 >> 4) << 2 | (c2 >> 4) << 4 | (c3 >> 4) << 6
                put_bytes(out, at + 128 + i, high)

    return run
