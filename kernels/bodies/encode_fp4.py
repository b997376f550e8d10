"""Bodies of `kernels/encode_fp4.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_lanes, put_pairs
from anamnesis.kernels.bodies._lanes import as_bits, as_reals, choose, least_of, size_of, splat
from anamnesis.kernels.bodies._mx import groups_by
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies.encode_fp8 import e4m3_lanes
from anamnesis.kernels.types import Array, Bytes, Floats

_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
_MAGIC = np.float32(2.0**22)  # the last place of its float32 is E2M1's smallest, 0.5
_SIX = 0x40C00000  # float32 bits of 6
_F32_SIX = np.float32(6)
_tile, _codes = stack(1024), stack(64)


@inline
def _even(quotients: Floats) -> Any:
    """E2M1 codes, ties to even: what is negative keeps its sign, and NaN is 0."""
    whole = as_bits(quotients) & 0x7FFFFFFF
    magnitude = least_of(whole, splat(_SIX))
    # 23 bits of mantissa to one: 22 go. Exponents are 126 apart (127 and 1).
    normal = (magnitude + (0x1FFFFF - (126 << 23)) + (magnitude >> 22 & 1)) >> 22
    small = as_bits(as_reals(magnitude) + _MAGIC) - (149 << 23)
    code = choose(magnitude < splat(127 << 23), small, normal)  # below 1
    code = choose(whole > splat(0x7F800000), splat(0), code)
    # Bit 3 is the sign.
    return code | choose(quotients < splat(np.float32(0)), splat(8), splat(0))


@inline
def _down(quotients: Floats) -> Any:
    """E2M1 codes, ties down: magnitudes alone."""
    size, code = size_of(quotients), splat(0)
    for k in range(7):
        code = choose(size > splat(_MIDDLES[k]), splat(k + 1), code)
    return code


def _coder(kind: int, rule: int) -> Any:
    """`store(out, at, numbers, scale)`: codes of sixteen quotients rounded to `kind`, as pairs.

    `rule` says where a tie goes: 0, to the even code; 1, down, and to +0 (MLX); 2, down, and 0 and
    NaN have a sign (ModelOpt's MXFP4).
    """

    def code_of(quotients: Floats) -> Any:
        if rule == 0:
            return _even(quotients)
        code, zero = _down(quotients), splat(np.float32(0))
        if rule == 1:
            # Nothing is nearer than anything else to infinity, and the first entry stays.
            code = choose(size_of(quotients) == splat(np.float32(np.inf)), splat(0), code)
            negative = (quotients < zero) & (code != splat(0))
            return code | choose(negative, splat(8), splat(0))
        return code | choose(quotients > zero, splat(0), splat(8))

    def store(out: Bytes, at: int, numbers: Floats, scale: np.float32) -> None:
        put_pairs(out, at // 2, code_of(rounded_lanes(numbers / scale, kind)))

    code_of = inline(code_of)
    return store


@variants
def micro(kind: int, rule: int) -> Any:
    """`_mx.groups_by` for E2M1 codes; `kind` and `rule` are those of `_coder`."""
    return groups_by(_coder(kind, rule))


@variants
def codes_of(kind: int, rule: int) -> Any:
    """`(values, scales, group, out)`: codes of `values` over their scales, one a group, as pairs.

    `values` is flat, groups are whole runs of 16; `kind` and `rule` are those of `_coder`.
    """
    store = inline(_coder(kind, rule))

    def run(values: Array, scales: Floats, group: int, out: Bytes) -> None:
        for g in range(scales.shape[0]):
            for i in range(g * group, (g + 1) * group, 16):
                store(out, i, lanes(values, i), scales[g])

    return run


@variants
def nv(style: str, kind: int) -> Any:
    """`(values, whole, numbers, scales, out)`: groups of 16, scales as E4M3 codes and E2M1 codes.

    `whole` is the number of the tensor, 1 for MLX, which has none; `numbers` what the E4M3 codes
    stand for. Scales are rounded to `kind` before they become codes, but for ModelOpt's.
    """
    divides = style == "compressed-tensors"
    store = inline(_coder(kind if style == "mlx" else 0, int(style == "mlx")))

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

    def run(values: Array, whole: float, numbers: Array, scales: Floats, out: Bytes) -> None:
        tile, codes = local(_tile(), (16, 16), np.int32), local(_codes(), 16, np.int32)
        factor = np.float32(whole)
        for first in range(0, scales.shape[0], 16):
            count = min(16, scales.shape[0] - first)
            greatest = as_reals(greatest_lanes(values, first, count, 16, tile))
            put_lanes(codes, 0, scale_codes(greatest, factor))
            for k in range(count):
                at, number = 16 * (first + k), numbers[codes[k]]
                scales[first + k] = np.uint8(codes[k])
                store(out, at, lanes(values, at), number / factor if divides else number * factor)

    return run
