"""Bodies of `kernels/encode_ints.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_some, some
from anamnesis.kernels.bodies._lanes import choose, splat, wholes
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.types import Array, Bytes, Floats

_room, _codes = stack(64), stack(64)


@variants
def codes_of(kind: int) -> Any:
    """`(values, scales, zeros, group, half, out)`: `code + half` of each of a flat array.

    Quotients and sums are rounded to `kind`; `out` is uint8.
    """

    def code_of(numbers: Floats, scale: np.float32, zero: np.float32, half: int) -> Any:
        low, high = splat(np.float32(-half)), splat(np.float32(half - 1))
        found = rounded_lanes(rounded_lanes(numbers / scale, kind) + zero, kind)
        found = choose(found > high, high, found)
        # What a cast of NaN gives is the lowest, too.
        found = choose(found > low, found, low)
        # To nearest, ties to even, of at most 128 in magnitude.
        return wholes((found + np.float32(12582912)) - np.float32(12582912)) + half

    def run(
        values: Array, scales: Floats, zeros: Floats, group: int, half: int, out: Bytes
    ) -> None:
        room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
        for g in range(scales.shape[0]):
            scale, zero, at, end = scales[g], zeros[g], g * group, (g + 1) * group
            rest = end - group % 16
            for i in range(at, rest, 16):
                put_bytes(out, i, code_of(lanes(values, i), scale, zero, half))
            if rest < end:
                found = code_of(some(values, rest, end, room), scale, zero, half)
                put_some(out, rest, end, found, codes)

    code_of = inline(code_of)
    return run
