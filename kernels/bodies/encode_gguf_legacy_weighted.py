"""Bodies of `kernels/encode_gguf_legacy.py` with an importance matrix.

`groups` are the same numbers as `values`, and `weighed` their weights, a block a row. Scales are
searched for in sixteen blocks side by side; codes are those that the search found the scale with.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import put_half
from anamnesis.kernels.bodies._ggml_lanes import (
    codes_above,
    half_lanes,
    nearest_lanes,
    search_signed,
    search_with_minimum,
)
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_lanes
from anamnesis.kernels.bodies._lanes import between, some_groups_of, splat
from anamnesis.kernels.bodies.encode_gguf_legacy import put_codes
from anamnesis.kernels.types import Bytes, Floats

_i32 = np.int32
_f32 = np.float32

_x, _weights, _tried, _tail = stack(2048), stack(2048), stack(2048), stack(2048)
_inverses, _leasts, _halves, _least_halves = stack(64), stack(64), stack(64), stack(64)
_STEPS = (_f32(-0.9), _f32(0.05), 36)


@variants
def around_zero(half: int) -> Any:
    """Q4_0 (`half` 8) and Q5_0 (16)."""
    nbytes, head = (18, 2) if half == 8 else (22, 6)

    def code(numbers: Floats, inverse: np.float32) -> Any:
        if inverse == 0:  # of a block that counts as zeros
            return splat(0)
        return between(nearest_lanes(numbers * inverse), -half, half - 1) + half

    def run(values: Floats, groups: Floats, weighed: Floats, out: Bytes) -> None:
        x, weights = local(_x(), (32, 16), _f32), local(_weights(), (32, 16), _f32)
        tail = local(_tail(), (16, 32), _f32)
        inverses, halves = local(_inverses(), 16, _f32), local(_halves(), 16, _i32)
        for first in range(0, groups.shape[0], 16):
            some_groups_of(groups, first, 32, tail, x)
            some_groups_of(weighed, first, 32, tail, weights)
            scale, inverse = search_signed(x, weights, 32, half)
            put_lanes(halves, 0, half_lanes(scale))
            put_lanes(inverses, 0, inverse)
            for k in range(min(16, groups.shape[0] - first)):
                at, begin = nbytes * (first + k), 32 * (first + k)
                # `d`, then in Q5_0 four bytes of fifth bits, then codes: element i is the low half
                # of byte i, element i + 16 the high one.
                put_half(out, at, halves[k])
                low = code(lanes(values, begin), inverses[k])
                high = code(lanes(values, begin + 16), inverses[k])
                put_codes(low, high, out, at, head)

    code = inline(code)
    return run


@variants
def above_least(most: int) -> Any:
    """Q4_1 (`most` 15) and Q5_1 (31)."""
    nbytes, head = (20, 4) if most == 15 else (24, 8)

    def code(numbers: Floats, inverse: np.float32, least: np.float32) -> Any:
        return codes_above(numbers, splat(inverse), splat(least), most)

    def run(values: Floats, groups: Floats, weighed: Floats, out: Bytes) -> None:
        x, weights = local(_x(), (32, 16), _f32), local(_weights(), (32, 16), _f32)
        tried, tail = local(_tried(), (32, 16), _f32), local(_tail(), (16, 32), _f32)
        inverses, leasts = local(_inverses(), 16, _f32), local(_leasts(), 16, _f32)
        halves, least_halves = local(_halves(), 16, _i32), local(_least_halves(), 16, _i32)
        for first in range(0, groups.shape[0], 16):
            some_groups_of(groups, first, 32, tail, x)
            some_groups_of(weighed, first, 32, tail, weights)
            scale, minimum, inverse, least = search_with_minimum(
                x, weights, tried, 32, most, _STEPS, False
            )
            put_lanes(halves, 0, half_lanes(scale))
            put_lanes(least_halves, 0, half_lanes(minimum))
            put_lanes(inverses, 0, inverse)
            put_lanes(leasts, 0, least)
            for k in range(min(16, groups.shape[0] - first)):
                at, begin = nbytes * (first + k), 32 * (first + k)
                put_half(out, at, halves[k])
                put_half(out, at + 2, least_halves[k])
                low = code(lanes(values, begin), inverses[k], leasts[k])
                high = code(lanes(values, begin + 16), inverses[k], leasts[k])
                put_codes(low, high, out, at, head)

    code = inline(code)
    return run
