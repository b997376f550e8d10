"""Bodies of `kernels/encode_gguf_iq4.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX, clamped, half_bits, nearest, put_half
from anamnesis.kernels.bodies._jit import inline, jit, local, stack

_f32 = np.float32
_i32 = np.int32
_NUMBERS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_TRIES = 7

_scales = stack(32)


@inline
def _code(value: Any) -> Any:
    """`best_index_int8` of the sixteen numbers."""
    if value <= _NUMBERS[0]:
        return 0
    if value >= _NUMBERS[15]:
        return 15
    low, high = 0, 15
    while high - low > 1:
        middle = (low + high) // 2
        if value < _NUMBERS[middle]:
            high = middle
        else:
            low = middle
    below = _f32(value - _NUMBERS[high - 1])
    return high - 1 if below < _f32(_NUMBERS[high] - value) else high


@inline
def _scale_of(values: Any, first: Any) -> Any:
    """The scale of 32 elements; 0 for what counts as zeros."""
    signed, most = _f32(0), _f32(0)
    for i in range(first, first + 32):
        if abs(values[i]) > most:
            most, signed = abs(values[i]), values[i]
    if most < LEAST_MAX:
        return _f32(0)
    scale, best = _f32(0), _f32(0)
    for step in range(-_TRIES - 1, _TRIES + 1):
        if step < -_TRIES:
            inverse = np.divide(_f32(1), np.divide(-signed, _NUMBERS[0]))
        else:
            inverse = np.divide(_f32(_f32(step) + _NUMBERS[0]), signed)
        sum_qx, sum_q2 = _f32(0), _f32(0)
        for i in range(first, first + 32):
            value = values[i]
            number = _NUMBERS[_code(_f32(inverse * value))]
            weight = _f32(value * value)
            sum_qx = _f32(sum_qx + _f32(_f32(weight * number) * value))
            sum_q2 = _f32(sum_q2 + _f32(_f32(weight * number) * number))
        if step < -_TRIES:
            scale = np.divide(sum_qx, sum_q2) if sum_q2 > 0 else _f32(0)
            best = _f32(scale * sum_qx)
        elif sum_q2 > 0 and _f32(sum_qx * sum_qx) > _f32(best * sum_q2):
            scale = np.divide(sum_qx, sum_q2)
            best = _f32(scale * sum_qx)
    return scale


@inline
def _store(values: Any, first: Any, inverse: Any, out: Any, at: Any) -> None:
    for i in range(16):
        low = _code(_f32(inverse * values[first + i]))
        high = _code(_f32(inverse * values[first + 16 + i]))
        out[at + i] = np.uint8(low | high << 4)


@jit
def iq4_nl(values: Any, out: Any) -> None:
    """IQ4_NL: `d` f16, then elements i and 16 + i as low and high half of byte i."""
    for b in range(values.shape[0] // 32):
        scale = _scale_of(values, 32 * b)
        put_half(out, 18 * b, half_bits(scale))
        inverse = np.divide(_f32(1), scale) if scale != 0 else _f32(0)
        _store(values, 32 * b, inverse, out, 18 * b + 2)


@jit
def iq4_xs(values: Any, out: Any) -> None:
    """IQ4_XS: `d` f16, two bits a scale, four bits a scale, then eight runs as in IQ4_NL."""
    scales = local(_scales(), 8, _f32)
    for b in range(values.shape[0] // 256):
        at, most, signed = 136 * b, _f32(0), _f32(0)
        for j in range(8):
            scales[j] = _scale_of(values, 256 * b + 32 * j)
            if abs(scales[j]) > most:
                most, signed = abs(scales[j]), scales[j]
        d = _f32(-signed / _f32(32))
        put_half(out, at, half_bits(d))
        inverse = np.divide(_f32(1), d) if d != 0 else _f32(0)
        high = 0
        for j in range(8):
            step = clamped(nearest(inverse * scales[j]), -32, 31)
            group = _f32(d * _f32(step))
            own = np.divide(_f32(1), group) if group != 0 else _f32(0)
            _store(values, 256 * b + 32 * j, own, out, at + 8 + 16 * j)
            code = step + 32
            low = code & 0xF
            if j % 2 == 0:
                out[at + 4 + j // 2] = np.uint8(low)
            else:
                out[at + 4 + j // 2] |= np.uint8(low << 4)
            high |= (code >> 4) << (2 * j)
        out[at + 2] = np.uint8(high & 0xFF)
        out[at + 3] = np.uint8(high >> 8)
