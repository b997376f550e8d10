"""Bodies of `kernels/encode_fp4.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, variants
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    choose,
    lanes,
    least_of,
    put_pairs,
    size_of,
    splat,
)
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies.encode_fp8 import to_e4m3
from anamnesis.kernels.types import Array

_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
_MAGIC = np.float32(2.0**22)  # the last place of its float32 is E2M1's smallest, 0.5
_SIX = 0x40C00000  # float32 bits of 6


@inline
def _even(quotients: Any) -> Any:
    """E2M1 codes, ties to even: what is negative keeps its sign, and NaN is 0."""
    whole = as_bits(quotients) & 0x7FFFFFFF
    magnitude = least_of(whole, splat(_SIX))
    normal = (magnitude + (0x1FFFFF - (126 << 23)) + (magnitude >> 22 & 1)) >> 22
    small = as_bits(as_reals(magnitude) + _MAGIC) - (149 << 23)
    code = choose(magnitude < splat(127 << 23), small, normal)  # below 1
    code = choose(whole > splat(0x7F800000), splat(0), code)
    return code | choose(quotients < splat(np.float32(0)), splat(8), splat(0))


@inline
def _down(quotients: Any) -> Any:
    """E2M1 codes, ties down: magnitudes alone."""
    size, code = size_of(quotients), splat(0)
    for k in range(7):
        code = choose(size > splat(_MIDDLES[k]), splat(k + 1), code)
    return code


@variants
def codes_of(kind: int, rule: int) -> Any:
    """`(values, scales, group, out)`: codes of `values` over their scales, one a group, as pairs.

    `values` is flat, groups are whole runs of 16, and quotients are rounded to `kind`. `rule` says
    where a tie goes: 0, to the even code; 1, down, and to +0 (MLX); 2, down, and 0 and NaN have a
    sign (ModelOpt's MXFP4).
    """

    def code_of(quotients: Any) -> Any:
        if rule == 0:
            return _even(quotients)
        code, zero = _down(quotients), splat(np.float32(0))
        if rule == 1:
            # Nothing is nearer than anything else to infinity, and the first entry stays.
            code = choose(size_of(quotients) == splat(np.float32(np.inf)), splat(0), code)
            negative = (quotients < zero) & (code != splat(0))
            return code | choose(negative, splat(8), splat(0))
        return code | choose(quotients > zero, splat(0), splat(8))

    def run(values: Array, scales: Array, group: int, out: Array) -> None:
        for g in range(scales.shape[0]):
            for i in range(g * group, (g + 1) * group, 16):
                quotients = rounded_lanes(lanes(values, i) / scales[g], kind)
                put_pairs(out, i // 2, code_of(quotients))

    code_of = inline(code_of)
    return run


@jit
def e4m3(values: Array, out: Array) -> None:
    """E4M3 codes of numbers of at most 464."""
    for i in range(values.shape[0]):
        out[i] = to_e4m3(values[i])
