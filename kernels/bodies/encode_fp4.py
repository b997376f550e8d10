"""Bodies of `kernels/encode_fp4.py`, which has the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_lanes, put_pairs, put_some
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    choose,
    is_any,
    least_of,
    most_of,
    size_of,
    splat,
)
from anamnesis.kernels.bodies._mx import groups_by
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies._quotients import quotients, reciprocal, reciprocals, shifted
from anamnesis.kernels.bodies.encode_fp8 import e4m3_lanes, e4m3_reals
from anamnesis.kernels.types import Array, Bytes, Floats

_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
_PLACES = 21  # zeros at the end of a tie of E2M1 as float32: it has 3 bits, one of them not stored
_NUMBERS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_FAR = np.float32(2.0**23)  # from which on halves are rounded away, and distances are alike
_SIX = 0x40C00000  # float32 bits of 6
_F32_SIX = np.float32(6)
_SATURATED = 0x7E  # the greatest E4M3 code, 448
_NAN = np.float32(np.nan)  # the `reciprocal` of what is divided by
# Groups whose scales are made before their codes: a scale waits for three quotients, one after the
# other, and those of others are made meanwhile.
_MANY = 32
_tile, _codes = stack(1024), stack(64)
_scales, _inverses = stack(4 * _MANY), stack(4 * _MANY)


@inline
def _even(quotients: Floats) -> Any:
    """E2M1 codes of what is no NaN, ties to even: what is negative keeps its sign."""
    magnitude = least_of(as_bits(quotients) & 0x7FFFFFFF, splat(_SIX))
    # As E4M3's (`e4m3_bytes`): steps of half the power of two, 1 at least, are the last place of
    # 2**22 times that; 2 for each power from 1 on, whose field is 127: 2 takes 2 * 127 off.
    power = most_of(magnitude & 0x7F800000, splat(127 << 23))
    steps = as_bits(as_reals(magnitude) + as_reals(power + (22 << 23 | 2)))
    code = steps + (power >> 22) & 7
    # Bit 3 is the sign; -0 is 0.
    return choose(quotients < splat(np.float32(0)), code | 8, code)


@inline
def _down(quotients: Floats) -> Any:
    """E2M1 codes, ties down: magnitudes alone."""
    size, code = size_of(quotients), splat(0)
    for k in range(7):
        code = choose(size > splat(_MIDDLES[k]), splat(k + 1), code)
    return code


@inline
def _first_nearest(size: Floats) -> Any:
    """E2M1 codes of magnitudes: the first of those whose distance in float32 is the least."""
    code, least = splat(0), size
    for k in range(1, 8):
        distance = size_of(size - splat(_NUMBERS[k]))
        near = distance < least
        code, least = choose(near, splat(k), code), choose(near, distance, least)
    return code


def _coder(divided: Callable[..., Any], rule: int) -> Any:
    """`store(out, at, numbers, scale, inverse)`: codes of sixteen quotients, as pairs.

    `rule` says where a tie goes: 0, to the even code; 1, down, and to +0 (MLX, which compares
    distances in float32); 2, down, and 0 and NaN have a sign (ModelOpt's MXFP4); 3, to the even
    code, and NaN is 6 (ModelOpt's NVFP4, where what is beyond all bounds is 6), not 0.
    """

    def code_of(quotients: Floats) -> Any:
        if rule in (0, 3):
            return choose(quotients == quotients, _even(quotients), splat(7 if rule else 0))
        code, zero = _down(quotients), splat(np.float32(0))
        if rule == 1:
            far = size_of(quotients) >= splat(_FAR)
            if is_any(far):
                code = choose(far, _first_nearest(size_of(quotients)), code)
            negative = (quotients < zero) & (code != splat(0))
            return code | choose(negative, splat(8), splat(0))
        return code | choose(quotients > zero, splat(0), splat(8))

    def store(out: Bytes, at: int, numbers: Floats, scale: np.float32, inverse: np.float32) -> None:
        put_pairs(out, at // 2, code_of(divided(numbers, scale, inverse)))

    code_of = inline(code_of)
    return store


@variants
def micro(kind: int, rule: int) -> Any:
    """`_mx.groups_by` for E2M1 codes of quotients rounded to `kind`; `rule` is that of `_coder`."""
    return groups_by(_coder(shifted(kind), rule))


@variants
def codes_of(kind: int, rule: int) -> Any:
    """`(values, scales, group, out)`: codes of `values` over their scales, one a group, as pairs.

    `values` is flat, groups are whole runs of 16. Quotients are rounded to `kind`; `rule` is that
    of `_coder`.
    """
    store = inline(_coder(quotients(kind, _PLACES), rule))

    def run(values: Array, scales: Floats, group: int, out: Bytes) -> None:
        for g in range(scales.shape[0]):
            scale = scales[g]
            inverse = reciprocal(scale)
            for i in range(g * group, (g + 1) * group, 16):
                store(out, i, lanes(values, i), scale, inverse)

    return run


@variants
def nv(style: str, kind: int) -> Any:
    """`(values, whole, scales, out)`: groups of 16, scales as E4M3 codes and E2M1 codes.

    `whole` is the number of the tensor, 1 for MLX, which has none. Scales are rounded to `kind`
    before they become codes, but for ModelOpt's.
    """
    divides, ours = style == "compressed-tensors", style == "mlx"
    rule = {"compressed-tensors": 0, "mlx": 1, "modelopt": 3}[style]
    store = inline(_coder(quotients(kind if ours else 0, _PLACES), rule))

    def scale_codes(greatest: Floats, whole: np.float32) -> Any:
        if style == "modelopt":
            wanted, zero = greatest / np.float32(_F32_SIX * whole), splat(np.float32(0))
            wanted = choose(wanted == zero, splat(np.float32(1)), wanted)
            least = splat(np.float32(2.0**-9))
            return e4m3_lanes(choose(wanted < least, least, wanted))
        local_scale = rounded_lanes(greatest / _F32_SIX, kind)
        if not divides:
            return e4m3_lanes(local_scale)
        codes = e4m3_lanes(local_scale * whole)
        return choose(codes == splat(0), splat(0x20), codes)  # 0.125, the library's for 0

    scale_codes = inline(scale_codes)

    def run(values: Array, whole: float, stored: Bytes, out: Bytes) -> None:
        tile, codes = local(_tile(), (16, 16), np.int32), local(_codes(), 16, np.int32)
        scales, inverses = (
            local(_scales(), _MANY, np.float32),
            local(_inverses(), _MANY, np.float32),
        )
        factor, every = np.float32(whole), stored.shape[0]
        for begin in range(0, every, _MANY):
            end = min(begin + _MANY, every)
            for first in range(begin, end, 16):
                count = min(16, end - first)
                greatest = as_reals(greatest_lanes(values, first, count, 16, tile))
                found = scale_codes(greatest, factor)
                numbers = e4m3_reals(found)
                numbers = numbers / splat(factor) if divides else numbers * factor
                put_lanes(scales, first - begin, numbers)
                inverse = reciprocals(numbers)
                if ours:  # of what saturates, codes hang on the last places of far quotients
                    inverse = choose(found == splat(_SATURATED), splat(_NAN), inverse)
                put_lanes(inverses, first - begin, inverse)
                if count == 16:
                    put_bytes(stored, first, found)
                else:
                    put_some(stored, first, first + count, found, codes)
            for g in range(begin, end):
                k = g - begin
                store(out, 16 * g, lanes(values, 16 * g), scales[k], inverses[k])

    return run
