"""Bodies of `kernels/encode_ints.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_pairs, put_some, some
from anamnesis.kernels.bodies._lanes import choose, splat, wholes
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies._quotients import quotients, reciprocal
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_PLACES = 16  # ties lie between whole numbers of seven bits, and have eight
_room, _codes = stack(64), stack(64)


@variants
def codes_of(kind: int, paired: bool) -> Any:
    """`(values, scales, zeros, group, half, offset, out)`: `code + offset` of each of a flat array.

    Quotients and sums are rounded to `kind`, of which `values` and `scales` are; codes lie from
    `-half` to `half - 1`. `out` is uint8, a byte a code, or `paired`: two of four bits, the first
    in the low half, in groups of whole runs of 16.
    """
    divided = quotients(kind, _PLACES)

    def code_of(numbers: Floats, group: tuple[Any, Any, Any], half: int, offset: int) -> Any:
        scale, inverse, zero = group
        low, high = splat(np.float32(-half)), splat(np.float32(half - 1))
        if zero == 0:
            found = divided(numbers, scale, inverse)
        elif kind == 0:  # sums round what is near a tie into it, which a quotient may not be near
            found = numbers / scale + zero
        else:
            found = rounded_lanes(divided(numbers, scale, inverse) + zero, kind)
        found = choose(found > high, high, found)
        found = choose(found < low, low, found)
        # What torch's cast of NaN gives.
        found = choose(found == found, found, splat(np.float32(0)))
        # To nearest, ties to even, of at most 128 in magnitude.
        return wholes((found + np.float32(12582912)) - np.float32(12582912)) + offset

    def put(out: Bytes, at: int, codes: Ints) -> None:
        if paired:
            put_pairs(out, at // 2, codes)
        else:
            put_bytes(out, at, codes)

    def run(
        values: Array,
        scales: Floats,
        zeros: Floats,
        group: int,
        half: int,
        offset: int,
        out: Bytes,
    ) -> None:
        room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
        for g in range(scales.shape[0]):
            facts, end = (scales[g], reciprocal(scales[g]), zeros[g]), (g + 1) * group
            rest = end - group % 16
            for i in range(g * group, rest, 16):
                put(out, i, code_of(lanes(values, i), facts, half, offset))
            if not paired and rest < end:
                found = code_of(some(values, rest, end, room), facts, half, offset)
                put_some(out, rest, end, found, codes)

    code_of, put = inline(code_of), inline(put)
    return run
