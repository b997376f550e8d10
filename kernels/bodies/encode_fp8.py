"""Bodies of `kernels/encode_fp8.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_some, some
from anamnesis.kernels.bodies._lanes import as_bits, as_reals, choose, least_of, splat
from anamnesis.kernels.bodies._mx import groups_by
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.types import Array, Bytes, Floats

_MAGIC = np.float32(2.0**14)  # the last place of its float32 is E4M3's smallest, 2**-9
_LARGEST = 0x43E00000  # float32 bits of 448
_room, _codes = stack(64), stack(64)


@inline
def e4m3_lanes(numbers: Floats) -> Any:
    """E4M3 codes of float32 lanes, saturated, nearest even; 0x7F for NaN, with its sign."""
    bits = as_bits(numbers)
    # Bits of positive float32 are in the order of the numbers, so that integers compare.
    whole = bits & 0x7FFFFFFF
    magnitude = least_of(whole, splat(_LARGEST))
    normal = (magnitude + (0x7FFFF - (120 << 23)) + (magnitude >> 20 & 1)) >> 20
    small = as_bits(as_reals(magnitude) + _MAGIC) - (141 << 23)
    code = choose(magnitude < splat(121 << 23), small, normal)  # below 2**-6
    code = choose(whole > splat(0x7F800000), splat(0x7F), code)
    return code | bits >> 24 & 0x80


@variants
def micro(kind: int, zero: bool) -> Any:
    """`_mx.groups_by` for E4M3 codes of quotients rounded to `kind`; with `zero`, -0 is 0."""

    def store(out: Bytes, at: int, numbers: Floats, scale: np.float32) -> None:
        found = rounded_lanes(numbers / scale, kind)
        put_bytes(out, at, e4m3_lanes(found + np.float32(0) if zero else found))

    return groups_by(store)


@variants
def codes_of(kind: int, multiply: bool, zero: bool) -> Any:
    """`(values, columns, scales, group, rows, out)`: codes of values over (or times) their scales.

    `values` and `out` are flat, rows of `columns`; `scales` is `[lines, groups]`, for each `rows`
    rows and `group` columns one. The quotient is rounded to `kind`; with `zero`, 0 is added, after
    which -0 is 0.
    """

    def code(numbers: Floats, scale: np.float32) -> Any:
        found = numbers * scale if multiply else rounded_lanes(numbers / scale, kind)
        return e4m3_lanes(found + np.float32(0) if zero else found)

    def run(values: Array, columns: int, scales: Floats, group: int, rows: int, out: Bytes) -> None:
        room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
        for row in range(values.shape[0] // columns):
            for g in range(scales.shape[1]):
                scale = scales[row // rows, g]
                end, at = row * columns + min(columns, (g + 1) * group), row * columns + g * group
                # Sixteen at a time; what is left goes through `some`, zeros in the other lanes.
                rest = end - (end - at) % 16
                for i in range(at, rest, 16):
                    put_bytes(out, i, code(lanes(values, i), scale))
                if rest < end:
                    put_some(out, rest, end, code(some(values, rest, end, room), scale), codes)

    code = inline(code)
    return run
