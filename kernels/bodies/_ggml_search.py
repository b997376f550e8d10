"""ggml's searches for a group's scale; each step is one float32 operation, in ggml's order.

A group is `count` elements of a flat array from `first` on; codes, int32, go to `codes` from `at`
on. Source: https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX, clamped, nearest
from anamnesis.kernels.bodies._jit import inline

_i32 = np.int32
_f32 = np.float32


@inline
def search_with_minimum(
    values: Any,
    first: Any,
    count: Any,
    most: Any,
    weights: Any,
    codes: Any,
    at: Any,
    tried: Any,
    start: Any,
    steps: Any,
    absolute: Any,
) -> Any:
    """`make_qkx2_quants`: the scale, and the minimum with its sign turned.

    `steps + 1` scales are tried, `0.1` apart from `most + start` codes on; `absolute` takes the
    weighted distances, else their squares.
    """
    low = high = values[first]
    sum_w = weights[0]
    sum_x = _f32(sum_w * values[first])
    for i in range(1, count):
        value, weight = values[first + i], weights[i]
        low = value if value < low else low
        high = value if value > high else high
        sum_w = _f32(sum_w + weight)
        sum_x = _f32(sum_x + _f32(weight * value))
    low = _f32(0) if low > 0 else low
    if high == low:
        for i in range(count):
            codes[at + i] = 0
        return _f32(0), _f32(-low)
    span = _f32(high - low)
    inverse = np.divide(_f32(most), span)
    scale = np.divide(_f32(1), inverse)
    minimum = low
    best = _f32(0)
    for i in range(count):
        code = clamped(nearest(inverse * _f32(values[first + i] - low)), 0, most)
        codes[at + i] = code
        gap = _f32(_f32(_f32(scale * _f32(code)) + minimum) - values[first + i])
        gap = abs(gap) if absolute else _f32(gap * gap)
        best = _f32(best + _f32(weights[i] * gap))
    for step in range(steps + 1):
        # The search keeps what it compares with: codes are counted from the least found so far.
        inverse = np.divide(
            _f32(_f32(start + _f32(_f32(0.1) * _f32(step))) + _f32(most)), _f32(high - minimum)
        )
        sum_l, sum_l2, sum_xl = _f32(0), _f32(0), _f32(0)
        for i in range(count):
            code = clamped(nearest(inverse * _f32(values[first + i] - minimum)), 0, most)
            tried[i] = code
            weighted = _f32(weights[i] * _f32(code))
            sum_l = _f32(sum_l + weighted)
            sum_l2 = _f32(sum_l2 + _f32(weighted * _f32(code)))
            sum_xl = _f32(sum_xl + _f32(weighted * values[first + i]))
        determinant = _f32(_f32(sum_w * sum_l2) - _f32(sum_l * sum_l))
        if determinant > 0:
            this_scale = np.divide(_f32(_f32(sum_w * sum_xl) - _f32(sum_x * sum_l)), determinant)
            this_min = np.divide(_f32(_f32(sum_l2 * sum_x) - _f32(sum_l * sum_xl)), determinant)
            if this_min > 0:
                this_min = _f32(0)
                this_scale = np.divide(sum_xl, sum_l2)
            error = _f32(0)
            for i in range(count):
                gap = _f32(_f32(_f32(this_scale * _f32(tried[i])) + this_min) - values[first + i])
                gap = abs(gap) if absolute else _f32(gap * gap)
                error = _f32(error + _f32(weights[i] * gap))
            if error < best:
                for i in range(count):
                    codes[at + i] = tried[i]
                best, scale, minimum = error, this_scale, this_min
    return scale, _f32(-minimum)


@inline
def _signed_end(values: Any, first: Any, count: Any) -> Any:
    """The number of greatest magnitude, the first of equals, and that magnitude."""
    signed, most = _f32(0), _f32(0)
    for i in range(first, first + count):
        size = abs(values[i])
        if size > most:
            most, signed = size, values[i]
    return signed, most


@inline
def search_signed(values: Any, first: Any, count: Any, half: Any, codes: Any, at: Any) -> Any:
    """`make_qx_quants` with weights `w * w`: the scale of codes `-half` to `half - 1`, offset."""
    signed, most = _signed_end(values, first, count)
    if most < LEAST_MAX:
        for i in range(count):
            codes[at + i] = 0
        return _f32(0)
    scale, best = _f32(0), _f32(0)
    for step in range(-10, 10):
        # The first try is at `half` itself; then -9 to 9 tenths away from it, without 0.
        if step == 0:
            continue
        tenths = _f32(0) if step == -10 else _f32(_f32(0.1) * _f32(step))
        inverse = np.divide(_f32(-_f32(_f32(half) + tenths)), signed)
        sum_lx, sum_l2 = _f32(0), _f32(0)
        for i in range(count):
            value = values[first + i]
            code = clamped(nearest(inverse * value), -half, half - 1)
            weight = _f32(value * value)
            sum_lx = _f32(sum_lx + _f32(_f32(weight * value) * _f32(code)))
            sum_l2 = _f32(sum_l2 + _f32(_f32(weight * _f32(code)) * _f32(code)))
        if step == -10:
            scale = np.divide(sum_lx, sum_l2) if sum_l2 != 0 else _f32(0)
            best = _f32(scale * sum_lx)
        elif sum_l2 > 0 and _f32(sum_lx * sum_lx) > _f32(best * sum_l2):
            scale = np.divide(sum_lx, sum_l2)
            best = _f32(scale * sum_lx)
        else:
            continue
        for i in range(count):
            codes[at + i] = clamped(nearest(inverse * values[first + i]), -half, half - 1) + half
    return scale


@inline
def search_signed_3(values: Any, first: Any, codes: Any, at: Any) -> Any:
    """`make_q3_quants` of 16 elements: the scale of codes -4 to 3, stored with 4 added."""
    signed, most = _signed_end(values, first, 16)
    if most < LEAST_MAX:
        for i in range(16):
            codes[at + i] = 0
        return _f32(0)
    inverse = np.divide(_f32(-4), signed)
    sum_lx, sum_l2 = _f32(0), _f32(0)
    for i in range(16):
        value = values[first + i]
        code = clamped(nearest(inverse * value), -4, 3)
        codes[at + i] = code
        weight = _f32(value * value)
        sum_lx = _f32(sum_lx + _f32(_f32(weight * value) * _f32(code)))
        sum_l2 = _f32(sum_l2 + _f32(_f32(weight * _f32(code)) * _f32(code)))
    for _ in range(5):
        changed = False
        for i in range(16):
            value, code = values[first + i], codes[at + i]
            weight = _f32(value * value)
            other_lx = _f32(sum_lx - _f32(_f32(weight * value) * _f32(code)))
            if other_lx > 0:
                other_l2 = _f32(sum_l2 - _f32(_f32(weight * _f32(code)) * _f32(code)))
                new = clamped(nearest(np.divide(_f32(value * other_l2), other_lx)), -4, 3)
                if new != code:
                    other_lx = _f32(other_lx + _f32(_f32(weight * value) * _f32(new)))
                    other_l2 = _f32(other_l2 + _f32(_f32(weight * _f32(new)) * _f32(new)))
                    left = _f32(_f32(other_lx * other_lx) * sum_l2)
                    right = _f32(_f32(sum_lx * sum_lx) * other_l2)
                    if other_l2 > 0 and left > right:
                        codes[at + i] = new
                        sum_lx, sum_l2 = other_lx, other_l2
                        changed = True
        if not changed:
            break
    for i in range(16):
        codes[at + i] += 4
    return np.divide(sum_lx, sum_l2) if sum_l2 > 0 else _f32(0)
