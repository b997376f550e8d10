"""Bodies of `kernels/encode_ints.py`, which has the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    lanes,
    put_bytes,
    put_lanes,
    put_pairs,
    put_some,
    some,
)
from anamnesis.kernels.bodies._lanes import as_bits, as_reals, choose, splat
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies._quotients import quotients, reciprocal, reciprocals
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_PLACES = 16  # ties lie between whole numbers of seven bits, and have eight
_MAGIC, _MAGIC_BITS = np.float32(12582912), 0x4B400000  # 1.5 * 2**23, whose last place is 1
_room, _codes, _scales, _inverses = (stack(64) for _ in range(4))
_tile = stack(1024)


def _coder(kind: int) -> Callable[..., Any]:
    """`code_of(numbers, (scale, inverse, zero), half, offset)`: int32 lanes."""
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
        return as_bits(found + _MAGIC) - (_MAGIC_BITS - offset)

    return inline(code_of)


def _putter(paired: bool) -> Callable[..., None]:
    def put(out: Bytes, at: int, codes: Ints) -> None:
        if paired:
            put_pairs(out, at // 2, codes)
        else:
            put_bytes(out, at, codes)

    return inline(put)


@variants
def codes_of(kind: int, paired: bool) -> Any:
    """`(values, scales, zeros, group, half, offset, out)`: `code + offset` of each of a flat array.

    Quotients and sums are rounded to `kind`, of which `values` and `scales` are; codes lie from
    `-half` to `half - 1`. `out` is uint8, a byte a code, or `paired`: two of four bits, the first
    in the low half, in groups of whole runs of 16.
    """
    code_of, put = _coder(kind), _putter(paired)

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
                bring(values, i + READ_AHEAD)
                put(out, i, code_of(lanes(values, i), facts, half, offset))
            if not paired and rest < end:
                found = code_of(some(values, rest, end, room), facts, half, offset)
                put_some(out, rest, end, found, codes)

    return run


@variants
def symmetric(kind: int, paired: bool) -> Any:
    """`(values, group, levels, least, half, offset, scales, out)`: scales, float32, and codes.

    A scale is the greatest magnitude of a group, which is whole runs of 16, over `levels`, rounded
    to `kind`; `least` where that is 0. The rest is that of `codes_of` without zero points.
    """
    code_of, put = _coder(kind), _putter(paired)

    def run(
        values: Array,
        group: int,
        levels: float,
        least: float,
        half: int,
        offset: int,
        scales: Floats,
        out: Bytes,
    ) -> None:
        tile, inverses = local(_tile(), (16, 16), np.int32), local(_inverses(), 16, np.float32)
        room, zero = local(_scales(), 16, np.float32), np.float32(0)
        for first in range(0, scales.shape[0], 16):
            count = min(16, scales.shape[0] - first)
            found = as_reals(greatest_lanes(values, first, count, group, tile))
            found = rounded_lanes(found / np.float32(levels), kind)
            found = choose(found == splat(zero), splat(np.float32(least)), found)
            put_lanes(room, 0, found)
            put_lanes(inverses, 0, reciprocals(found))
            for k in range(count):
                scales[first + k] = room[k]
                facts = room[k], inverses[k], zero
                for i in range((first + k) * group, (first + k + 1) * group, 16):
                    put(out, i, code_of(lanes(values, i), facts, half, offset))

    return run
