"""Bodies of `kernels/encode_gguf_k.py` with an importance matrix.

`groups` are the same numbers as `values`, and `weighed` their weights, a group a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import half_bits
from anamnesis.kernels.bodies._ggml_lanes import nearest_lanes, search_signed, search_with_minimum
from anamnesis.kernels.bodies._ggml_store import put_scales_3, store_2, store_3, store_with_minimums
from anamnesis.kernels.bodies._ggml_weights import search_both_signs, search_positive
from anamnesis.kernels.bodies._jit import jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_lanes
from anamnesis.kernels.bodies._lanes import between, choose, groups_of, reals, some_groups_of, splat
from anamnesis.kernels.types import Array, Floats

_i32 = np.int32
_f32 = np.float32

_x, _weights, _tried, _tail = stack(2048), stack(2048), stack(2048), stack(2048)
_scales, _minimums, _inverses, _leasts = stack(64), stack(64), stack(64), stack(64)
_sums, _lows, _highs = stack(64), stack(64), stack(64)
_STEPS = (_f32(-0.9), _f32(0.05), 36)


@jit
def q2_k(values: Array, groups: Floats, weighed: Floats, out: Array) -> None:
    """Q2_K: weights' sums in a group weigh its scale and its minimum."""
    x, weights = local(_x(), (16, 16), _f32), local(_weights(), (16, 16), _f32)
    tried, sums = local(_tried(), (16, 16), _f32), local(_sums(), 16, _f32)
    scales, minimums = local(_scales(), 16, _f32), local(_minimums(), 16, _f32)
    inverses, leasts = local(_inverses(), 16, _f32), local(_leasts(), 16, _f32)
    lows, highs = local(_lows(), 16, _i32), local(_highs(), 16, _i32)
    for b in range(values.shape[0] // 256):
        at = 84 * b
        groups_of(groups, 16 * b, 16, x)
        groups_of(weighed, 16 * b, 16, weights)
        total = splat(_f32(0))
        for i in range(16):
            total = total + lanes(weights, 16 * i)
        scale, minimum, inverse, least = search_with_minimum(
            x, weights, tried, 16, 3, _STEPS, False
        )
        put_lanes(sums, 0, total)
        put_lanes(scales, 0, scale)
        put_lanes(minimums, 0, splat(_f32(-1)) * minimum)
        put_lanes(inverses, 0, inverse)
        put_lanes(leasts, 0, least)
        d_bits = half_bits(search_positive(scales, sums, 16, 15, lows))
        m_bits = half_bits(search_positive(minimums, sums, 16, 15, highs))
        # Bytes 0-15, one a group: bits 0-3 its scale, 4-7 its minimum.
        for j in range(16):
            out[at + j] = np.uint8((lows[j] | highs[j] << 4) & 0xFF)
        store_2(values, 256 * b, (d_bits, m_bits), (inverses, leasts), out, at)


@jit
def q3_k(values: Array, groups: Floats, weighed: Floats, out: Array) -> None:
    """Q3_K: scales and their own scale are both searched for."""
    x, weights = local(_x(), (16, 16), _f32), local(_weights(), (16, 16), _f32)
    tried, sums = local(_tried(), (16, 16), _f32), local(_sums(), 16, _f32)
    scales, lows = local(_scales(), 16, _f32), local(_lows(), 16, _i32)
    for b in range(values.shape[0] // 256):
        at = 110 * b
        groups_of(groups, 16 * b, 16, x)
        groups_of(weighed, 16 * b, 16, weights)
        total = splat(_f32(0))
        for i in range(16):
            total = total + lanes(weights, 16 * i)
        scale, inverse = search_signed(x, weights, 16, 4)
        zero = splat(_f32(0))
        for i in range(16):
            code = reals(between(nearest_lanes(inverse * lanes(x, 16 * i)), -4, 3))
            put_lanes(tried, 16 * i, choose(inverse == zero, splat(_f32(-4)), code))
        put_lanes(sums, 0, total)
        put_lanes(scales, 0, scale)
        bits = half_bits(search_both_signs(scales, sums, 16, 32, lows))
        # Bytes 96-107 are sixteen scales of six bits, each or-ed in by its parts.
        for i in range(12):
            out[at + 96 + i] = np.uint8(0)
        for j in range(16):
            put_scales_3(lows[j], j, out, at)
        store_3(values, 256 * b, tried, bits, out, at)


@variants
def with_minimums(most: int) -> Any:
    """Q4_K (`most` 15) and Q5_K (31)."""
    nbytes = 144 if most == 15 else 176

    def run(values: Array, groups: Floats, weighed: Floats, out: Array) -> None:
        x, weights = local(_x(), (32, 16), _f32), local(_weights(), (32, 16), _f32)
        tried, tail = local(_tried(), (32, 16), _f32), local(_tail(), (16, 32), _f32)
        sums, scales = local(_sums(), 16, _f32), local(_scales(), 16, _f32)
        minimums, inverses = local(_minimums(), 16, _f32), local(_inverses(), 16, _f32)
        leasts = local(_leasts(), 16, _f32)
        lows, highs = local(_lows(), 8, _i32), local(_highs(), 8, _i32)
        blocks = values.shape[0] // 256
        # Sixteen lanes hold the eight groups of two blocks.
        for b in range(0, blocks, 2):
            some_groups_of(groups, 8 * b, 32, tail, x)
            some_groups_of(weighed, 8 * b, 32, tail, weights)
            total = splat(_f32(0))
            for i in range(32):
                total = total + lanes(weights, 16 * i)
            scale, minimum, inverse, least = search_with_minimum(
                x, weights, tried, 32, most, _STEPS, False
            )
            put_lanes(sums, 0, total)
            put_lanes(scales, 0, scale)
            put_lanes(minimums, 0, splat(_f32(-1)) * minimum)
            put_lanes(inverses, 0, inverse)
            put_lanes(leasts, 0, least)
            for k in range(min(2, blocks - b)):
                own = slice(8 * k, 8 * k + 8)
                d_bits = half_bits(search_positive(scales[own], sums[own], 8, 63, lows))
                m_bits = half_bits(search_positive(minimums[own], sums[own], 8, 63, highs))
                found = lows, highs, (d_bits, m_bits)
                before = inverses[own], leasts[own]
                store_with_minimums(
                    values, 256 * (b + k), found, before, most, out, nbytes * (b + k)
                )

    return run
