"""Microscaling groups of numbers in BF16, encoded in one pass: a magnitude tells the scale.

A group's greatest magnitude is found, its scale looked up, and its codes are stored while its
numbers are in the first cache.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._jit import inline, local, stack
from anamnesis.kernels.bodies._lane_memory import lanes, put_lanes
from anamnesis.kernels.bodies._quotients import reciprocal
from anamnesis.kernels.types import Array

GROUP = 32
_tile, _room = stack(1024), stack(64)


def groups_by(store: Callable[..., None]) -> Callable[..., None]:
    """`(values, table, exponents, out)`, with `store(out, at, numbers, scale, inverse)` of sixteen
    numbers.

    `values` are BF16's bits in groups of 32, `exponents` a byte for each. `table` is a pair, uint8
    and float32, of 32,768: the byte and the scale of a group by the bits of its magnitude.
    """
    store = inline(store)

    def run(values: Array, table: tuple[Array, Array], exponents: Array, out: Array) -> None:
        tile, room = local(_tile(), (16, 16), np.int32), local(_room(), 16, np.int32)
        stored, scales = table
        for first in range(0, exponents.shape[0], 16):
            count = min(16, exponents.shape[0] - first)
            put_lanes(room, 0, greatest_lanes(values, first, count, GROUP, tile))
            for k in range(count):
                # The upper half of a float32 that was BF16: a magnitude's place in the table.
                place, at = room[k] >> 16, GROUP * (first + k)
                exponents[first + k], scale = stored[place], scales[place]
                inverse = reciprocal(scale)
                store(out, at, lanes(values, at), scale, inverse)
                store(out, at + 16, lanes(values, at + 16), scale, inverse)

    return run
