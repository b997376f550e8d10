"""Bodies of `kernels/encode_bnb.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._jit import inline, jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import (
    lanes,
    put_bytes,
    put_lanes,
    put_pairs_back,
    put_some,
    some,
)
from anamnesis.kernels.bodies._lanes import as_reals, choose, splat, wholes
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.types import Array, Bytes, Floats

_room, _codes, _inverses, _tile = stack(64), stack(64), stack(64), stack(1024)


@inline
def _within(numbers: Floats) -> Any:
    low, high = splat(np.float32(-1)), splat(np.float32(1))
    numbers = choose(numbers < low, low, numbers)
    return choose(numbers > high, high, numbers)


def _place(numbers: Floats, bounds: Floats, order: Bytes) -> Any:
    """Of codes in the order of their numbers: four comparisons with bounds that lanes choose."""
    first = numbers <= splat(bounds[7])
    second = numbers <= choose(first, splat(bounds[3]), splat(bounds[11]))
    low = choose(second, splat(bounds[1]), splat(bounds[5]))
    high = choose(second, splat(bounds[9]), splat(bounds[13]))
    third = numbers <= choose(first, low, high)
    place = choose(first, splat(0), splat(8)) | choose(second, splat(0), splat(4))
    low = choose(
        second,
        choose(third, splat(bounds[0]), splat(bounds[2])),
        choose(third, splat(bounds[4]), splat(bounds[6])),
    )
    high = choose(
        second,
        choose(third, splat(bounds[8]), splat(bounds[10])),
        choose(third, splat(bounds[12]), splat(bounds[14])),
    )
    fourth = numbers <= choose(first, low, high)
    return place | choose(third, splat(0), splat(2)) | choose(fourth, splat(0), splat(1))


def _code(numbers: Floats, bounds: Floats, order: Bytes) -> Any:
    """Of codes in any order: one bound after the other."""
    # The map's numbers in ascending order have the codes `order`.
    code = splat(np.int32(order[0]))
    for k in range(15):
        code = choose(numbers <= splat(bounds[k]), code, splat(np.int32(order[k + 1])))
    return code


_last = inline(_code)


@variants
def four_bits(ordered: bool) -> Any:
    """`(values, block, least, bounds, order, absmax, out)`: 4-bit codes in pairs.

    A code says how many of fifteen `bounds` a number over the greatest magnitude of its block is
    above, in `order`; the last one is NaN's. With `ordered`, `order` is that of the numbers
    themselves. Blocks are whole runs of 16 numbers, their magnitudes stored in `absmax`; what is
    divided by is `least` at least.
    """
    code_of = inline(_place if ordered else _code)

    def run(
        values: Array,
        block: int,
        least: float,
        bounds: Array,
        order: Array,
        absmax: Array,
        out: Array,
    ) -> None:
        tile, room = local(_tile(), (16, 16), np.int32), local(_room(), 16, np.float32)
        inverses, lowest = local(_inverses(), 16, np.float32), splat(np.float32(least))
        for first in range(0, absmax.shape[0], 16):
            count = min(16, absmax.shape[0] - first)
            greatest = as_reals(greatest_lanes(values, first, count, block, tile))
            put_lanes(room, 0, greatest)
            divisors = choose(greatest < lowest, lowest, greatest)
            put_lanes(inverses, 0, splat(np.float32(1)) / divisors)
            for k in range(count):
                absmax[first + k], inverse = room[k], inverses[k]
                for i in range(block * (first + k), block * (first + k + 1), 16):
                    # The first element is the high half.
                    numbers = _within(lanes(values, i) * inverse)
                    put_pairs_back(out, i // 2, code_of(numbers, bounds, order))

    return run


@jit
def last_four_bits(values: Array, divisor: float, bounds: Array, order: Array, out: Array) -> None:
    """Codes of the numbers, over their greatest magnitude, of a block that is cut off."""
    room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.uint8)
    end, scale = values.shape[0], np.float32(divisor)
    for at in range(0, end, 16):
        numbers = _within(some(values, at, end, room) / scale)
        put_pairs_back(codes, 0, _last(numbers, bounds, order))
        for i in range((min(end - at, 16)) // 2):
            out[at // 2 + i] = codes[i]


@inline
def _byte(numbers: Floats, factor: np.float32) -> Any:
    """Products, at most 127 in magnitude, to nearest, ties to even; 0 of NaN."""
    # 1.5 * 2**23, whose last place is 1.
    found = (numbers * factor + np.float32(12582912)) - np.float32(12582912)
    return wholes(choose(found == found, found, splat(np.float32(0))))


@jit
def rows_of_bytes(values: Array, factors: Floats, columns: int, out: Bytes) -> None:
    """Values as binary16 times their row's factor, to int8, as bytes; NaN is 0."""
    room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
    for row in range(factors.shape[0]):
        end, factor = (row + 1) * columns, factors[row]
        rest = end - columns % 16
        for i in range(row * columns, rest, 16):
            put_bytes(out, i, _byte(rounded_lanes(lanes(values, i), 2), factor))
        if rest < end:
            numbers = rounded_lanes(some(values, rest, end, room), 2)
            put_some(out, rest, end, _byte(numbers, factor), codes)
