"""What ggml's encoders do with an importance matrix: weights, and searches of few numbers.

Each step is one float32 operation, in ggml's order. Source:
https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX, clamped, nearest
from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.types import Array, Floats, Integer, Real

_f32 = np.float32
_i32 = np.int32


@jit
def weigh(
    values: Floats, columns: Floats, span: int, factor: int, divisor: int, out: Floats
) -> None:
    """`out[i] = columns[i] * sqrt(variance + values[i] ** 2)`, over rows of `columns`.

    The variance is `factor` times the sum of the squares of `span` numbers, over `divisor`.
    """
    wide = columns.shape[0]
    for first in range(0, values.shape[0], span):
        total = _f32(0)
        for i in range(first, first + span):
            total = _f32(total + _f32(values[i] * values[i]))
        variance = _f32(_f32(_f32(factor) * total) / _f32(divisor))
        at = first % wide
        for i in range(span):
            value = values[first + i]
            out[first + i] = columns[at + i] * np.sqrt(_f32(variance + _f32(value * value)))


@jit
def weigh_alone(values: Floats, factor: int, share: float, out: Floats) -> None:
    """`out[i] = share * variance + values[i] ** 2` in blocks of 256; of no share, the square."""
    for first in range(0, values.shape[0], 256):
        more = _f32(0)
        if share > 0:
            total = _f32(0)
            for i in range(first, first + 256):
                total = _f32(total + _f32(values[i] * values[i]))
            more = _f32(_f32(share) * _f32(_f32(_f32(factor) * total) / _f32(256)))
        for i in range(first, first + 256):
            out[i] = _f32(more + _f32(values[i] * values[i]))


@inline
def _byte(code: Integer) -> Any:
    return _i32(code & 0xFF)


@inline
def search_positive(x: Floats, weights: Floats, count: int, most: int, codes: Array) -> Any:
    """`make_qp_quants`: the scale of `count` numbers under codes 0 to `most`, which go to `codes`.

    A code is a byte, as there: what is below 0 wraps.
    """
    top = _f32(0)
    for i in range(count):
        top = top if top > x[i] else x[i]
    for i in range(count):
        codes[i] = 0
    if top < LEAST_MAX:
        return _f32(0)
    inverse = np.divide(_f32(most), top)
    scale, best = np.divide(_f32(1), inverse), _f32(0)
    for i in range(count):
        # The first try alone takes codes that wrap.
        gap = _f32(x[i] - _f32(scale * _f32(_byte(nearest(_f32(inverse * x[i]))))))
        best = _f32(best + _f32(_f32(weights[i] * gap) * gap))
    for step in range(-4, 5):
        if step == 0:
            continue
        other = np.divide(_f32(_f32(_f32(0.1) * _f32(step)) + _f32(most)), top)
        scale, error = np.divide(_f32(1), other), _f32(0)
        for i in range(count):
            code = min(_i32(most), nearest(_f32(other * x[i])))
            gap = _f32(x[i] - _f32(scale * _f32(code)))
            error = _f32(error + _f32(_f32(weights[i] * gap) * gap))
        if error < best:
            best, inverse = error, other
    sum_lx, sum_l2 = _f32(0), _f32(0)
    for i in range(count):
        code = min(_i32(most), nearest(_f32(inverse * x[i])))
        codes[i] = _byte(code)
        weight, real = weights[i], _f32(code)
        sum_lx = _f32(sum_lx + _f32(_f32(weight * x[i]) * real))
        sum_l2 = _f32(sum_l2 + _f32(_f32(weight * real) * real))
    return _improved(x, weights, count, most, codes, (sum_lx, sum_l2))


@inline
def _improved(
    x: Floats, weights: Floats, count: int, most: int, codes: Array, sums: tuple[Real, Real]
) -> Any:
    """The scale after codes were chosen again one by one, up to five times."""
    sum_lx, sum_l2 = sums
    for _ in range(5):
        changed = False
        for i in range(count):
            weight, real = weights[i], _f32(codes[i])
            weighted = _f32(weight * x[i])
            other_lx = _f32(sum_lx - _f32(weighted * real))
            other_l2 = _f32(sum_l2 - _f32(_f32(weight * real) * real))
            # Without this element there is no scale to choose its code under.
            if not (other_lx > 0 and other_l2 > 0):
                continue
            code = min(_i32(most), nearest(np.divide(_f32(x[i] * other_l2), other_lx)))
            if code == codes[i]:
                continue
            new = _f32(code)
            other_lx = _f32(other_lx + _f32(weighted * new))
            other_l2 = _f32(other_l2 + _f32(_f32(weight * new) * new))
            # `lx ** 2 / l2` of both, without a division.
            left = _f32(_f32(other_lx * other_lx) * sum_l2)
            if left > _f32(_f32(sum_lx * sum_lx) * other_l2):
                codes[i] = _byte(code)
                sum_lx, sum_l2, changed = other_lx, other_l2, True
        if not changed:
            break
    return np.divide(sum_lx, sum_l2) if sum_l2 > 0 else _f32(0)


@inline
def search_both_signs(x: Array, weights: Array, count: int, half: int, codes: Array) -> Any:
    """`make_qx_quants` of one group: its scale; `codes` become those from 0 to `2 * half - 1`."""
    most, signed = _f32(0), _f32(0)
    for i in range(count):
        codes[i] = 0
        if abs(x[i]) > most:
            most, signed = abs(x[i]), x[i]
    if most < LEAST_MAX:
        return _f32(0)
    scale, best, best_inverse = _f32(0), _f32(0), _f32(0)
    for number in range(-10, 10):  # the first try is at `half` itself
        if number == 0:
            continue
        # -10 stands for the first try, which has no offset.
        step = 0 if number == -10 else number
        inverse = np.divide(-_f32(_f32(half) + _f32(_f32(0.1) * _f32(step))), signed)
        sum_lx, sum_l2 = _f32(0), _f32(0)
        for i in range(count):
            code = _f32(clamped(nearest(_f32(inverse * x[i])), -half, half - 1))
            sum_lx = _f32(sum_lx + _f32(_f32(weights[i] * x[i]) * code))
            sum_l2 = _f32(sum_l2 + _f32(_f32(weights[i] * code) * code))
        if number == -10:
            scale = np.divide(sum_lx, sum_l2) if sum_l2 != 0 else _f32(0)
            best, best_inverse = _f32(scale * sum_lx), inverse
        elif sum_l2 > 0 and _f32(sum_lx * sum_lx) > _f32(best * sum_l2):
            scale = np.divide(sum_lx, sum_l2)
            best, best_inverse = _f32(scale * sum_lx), inverse
    for i in range(count):
        codes[i] = clamped(nearest(_f32(best_inverse * x[i])), -half, half - 1) + half
    return scale
