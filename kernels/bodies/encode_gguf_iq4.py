"""Bodies of `kernels/encode_gguf_iq4.py`, which has the layout.

`groups` are the same numbers as `values`, 32 a row, and `weighed` their weights, if there are any.
Scales are searched for in sixteen groups side by side; what is nearest to a number is found by
fifteen comparisons, which need no branches.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX, clamped, half_bits, nearest, put_half
from anamnesis.kernels.bodies._ggml_lanes import half_lanes, inverse_of, signed_ends
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_lanes
from anamnesis.kernels.bodies._lanes import choose, some_groups_of, splat
from anamnesis.kernels.types import Bytes, Floats

_f32 = np.float32
_i32 = np.int32
_NUMBERS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Near the middle of two numbers both distances are exact, so that it alone decides, and the higher
# number has a tie.
_MIDDLES = np.array([(a + b) / 2 for a, b in pairwise(_NUMBERS)], _f32)
_HIGHER = np.array(_NUMBERS[1:], _f32)
_TRIES = 7

_x, _weights, _tail, _scales = stack(2048), stack(2048), stack(2048), stack(64)
_halves, _inverses = stack(64), stack(64)


@inline
def _codes(numbers: Floats) -> Any:
    """`best_index_int8` of the sixteen numbers: int32 lanes; 15 of NaN."""
    code = splat(0)
    for k in range(15):
        code = choose(numbers < _MIDDLES[k], code, splat(k + 1))
    return code


@inline
def _nearest_of(numbers: Floats) -> Any:
    """Which of the sixteen numbers is nearest, as float32 lanes."""
    found = splat(_f32(-127))
    for k in range(15):
        found = choose(numbers < _MIDDLES[k], found, splat(_HIGHER[k]))
    return found


@inline
def _sums(x: Floats, weights: Floats, inverse: Floats) -> Any:
    """The weighted sums of products with the nearest numbers, and of their squares."""
    sum_qx = sum_q2 = splat(_f32(0))
    for i in range(32):
        value = lanes(x, 16 * i)
        number = _nearest_of(inverse * value)
        weighted = lanes(weights, 16 * i) * number
        sum_qx = sum_qx + weighted * value
        sum_q2 = sum_q2 + weighted * number
    return sum_qx, sum_q2


@inline
def _search(x: Floats, weights: Floats) -> Any:
    """The scales of sixteen groups of 32 elements; 0 for what counts as zeros."""
    signed, most = signed_ends(x, 0, 32)
    zero = splat(_f32(0))
    sum_qx, sum_q2 = _sums(x, weights, splat(_f32(1)) / ((zero - signed) / _f32(-127)))
    # The scale of least squares for these codes: sum(w q x) / sum(w q q).
    scale = choose(sum_q2 > zero, sum_qx / sum_q2, zero)
    best = scale * sum_qx
    for step in range(-_TRIES, _TRIES + 1):
        sum_qx, sum_q2 = _sums(x, weights, splat(_f32(_f32(step) + _f32(-127))) / signed)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = choose(better, sum_qx / sum_q2, scale)
        best = choose(better, scale * sum_qx, best)
    return choose(most < splat(LEAST_MAX), zero, scale)


@inline
def _store(values: Floats, first: int, inverse: np.float32, out: Bytes, at: int) -> None:
    low = _codes(lanes(values, first) * inverse)
    high = _codes(lanes(values, first + 16) * inverse)
    # Byte i: element i in the low half, 16 + i in the high one.
    put_bytes(out, at, low | high << 4)


@inline
def _weights_of(
    x: Floats, weighed: Floats, first: int, tail: Floats, weights: Floats, weighted: int
) -> None:
    """The weights of sixteen groups from `first` on; the squares of the numbers where none are."""
    if weighted:
        some_groups_of(weighed, first, 32, tail, weights)
    else:
        for i in range(32):
            put_lanes(weights, 16 * i, lanes(x, 16 * i) * lanes(x, 16 * i))


@variants
def iq4_nl(weighted: int) -> Any:
    """IQ4_NL: `d` f16, then elements i and 16 + i as low and high half of byte i."""

    def run(values: Floats, groups: Floats, weighed: Floats, out: Bytes) -> None:
        x, weights = local(_x(), (32, 16), _f32), local(_weights(), (32, 16), _f32)
        tail = local(_tail(), (16, 32), _f32)
        halves, inverses = local(_halves(), 16, _i32), local(_inverses(), 16, _f32)
        for first in range(0, groups.shape[0], 16):
            some_groups_of(groups, first, 32, tail, x)
            _weights_of(x, weighed, first, tail, weights, weighted)
            scale = _search(x, weights)
            put_lanes(halves, 0, half_lanes(scale))
            put_lanes(inverses, 0, inverse_of(scale))
            for b in range(first, min(first + 16, groups.shape[0])):
                put_half(out, 18 * b, halves[b - first])
                _store(values, 32 * b, inverses[b - first], out, 18 * b + 2)

    return run


@variants
def iq4_xs(weighted: int) -> Any:
    """IQ4_XS: `d` f16, two bits a scale, four bits a scale, then eight runs as in IQ4_NL."""

    def run(values: Floats, groups: Floats, weighed: Floats, out: Bytes) -> None:
        x, weights = local(_x(), (32, 16), _f32), local(_weights(), (32, 16), _f32)
        tail, scales = local(_tail(), (16, 32), _f32), local(_scales(), 16, _f32)
        blocks = values.shape[0] // 256
        for b in range(0, blocks, 2):
            some_groups_of(groups, 8 * b, 32, tail, x)
            _weights_of(x, weighed, 8 * b, tail, weights, weighted)
            put_lanes(scales, 0, _search(x, weights))
            for k in range(min(2, blocks - b)):
                _store_block(values, 256 * (b + k), scales[8 * k : 8 * k + 8], out, 136 * (b + k))

    return run


@inline
def _store_block(values: Floats, first: int, scales: Floats, out: Bytes, at: int) -> None:
    """A block of IQ4_XS, of the scales that were found."""
    most, signed = _f32(0), _f32(0)
    for j in range(8):
        if abs(scales[j]) > most:
            most, signed = abs(scales[j]), scales[j]
    # The scale of greatest magnitude becomes -32, which six bits reach and 32 they do not.
    d = _f32(-signed / _f32(32))
    put_half(out, at, half_bits(d))
    inverse = np.divide(_f32(1), d) if d != 0 else _f32(0)
    high = 0
    for j in range(8):
        step = clamped(nearest(inverse * scales[j]), -32, 31)
        group = _f32(d * _f32(step))
        own = np.divide(_f32(1), group) if group != 0 else _f32(0)
        _store(values, first + 32 * j, own, out, at + 8 + 16 * j)
        code = step + 32
        # scales_l: a nibble a run, the even one low; bits 2 j, 2 j + 1 of scales_h are bits 4, 5 of
        # run j.
        low = code & 0xF
        if j % 2 == 0:
            out[at + 4 + j // 2] = np.uint8(low)
        else:
            out[at + 4 + j // 2] |= np.uint8(low << 4)
        high |= (code >> 4) << (2 * j)
    out[at + 2] = np.uint8(high & 0xFF)
    out[at + 3] = np.uint8(high >> 8)
