"""Bodies of `kernels/encode_bnb.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._jit import inline, jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    lanes,
    put_bytes,
    put_lanes,
    put_pairs_back,
    put_some,
    some,
)
from anamnesis.kernels.bodies._lanes import as_bits, as_reals, choose, splat, wholes
from anamnesis.kernels.bodies._lookup import entries_at
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_room, _codes, _inverses, _tile = stack(64), stack(64), stack(64), stack(1024)


@inline
def _place(numbers: Floats, bounds: Floats) -> Any:
    """How many of fifteen bounds a number is above: a search by halves. 15 of NaN.

    `bounds` are in order, 32 with what nobody asks for.
    """
    place = choose(numbers <= splat(bounds[7]), splat(0), splat(8))
    # Of the seven bounds left the middle one, then of three, then the one.
    place = place + choose(numbers <= entries_at(lanes(bounds, 3), place), splat(0), splat(4))
    place = place + choose(numbers <= entries_at(lanes(bounds, 1), place), splat(0), splat(2))
    return place + choose(numbers <= entries_at(lanes(bounds, 0), place), splat(0), splat(1))


@inline
def _code(numbers: Floats, bounds: Floats, order: Ints) -> Any:
    """The codes of numbers: those of the map's numbers, in ascending order, are `order`."""
    return as_bits(entries_at(as_reals(lanes(order, 0)), _place(numbers, bounds)))


@variants
def four_bits(ordered: bool) -> Any:
    """`(values, block, least, bounds, order, absmax, out)`: 4-bit codes in pairs.

    The code of a number over the greatest magnitude of its block is the one in `order`, int32,
    after as many as `bounds` are below it; the last one is NaN's. With `ordered`, a code is that
    count. Blocks are whole runs of 16 numbers, their magnitudes stored in `absmax`; what is
    divided by is `least` at least.
    """

    def code_of(numbers: Floats, bounds: Floats, order: Ints) -> Any:
        return _place(numbers, bounds) if ordered else _code(numbers, bounds, order)

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
                    numbers = lanes(values, i) * inverse
                    put_pairs_back(out, i // 2, code_of(numbers, bounds, order))

    code_of = inline(code_of)
    return run


@jit
def last_four_bits(values: Array, divisor: float, bounds: Array, order: Array, out: Array) -> None:
    """Codes of the numbers, over their greatest magnitude, of a block that is cut off."""
    room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.uint8)
    end, scale = values.shape[0], np.float32(divisor)
    for at in range(0, end, 16):
        numbers = some(values, at, end, room) / scale
        put_pairs_back(codes, 0, _code(numbers, bounds, order))
        for i in range((min(end - at, 16)) // 2):
            out[at // 2 + i] = codes[i]


@inline
def _byte(numbers: Floats, factor: np.float32) -> Any:
    """Products, at most 127 in magnitude, to nearest, ties to even; 0 of NaN."""
    # 1.5 * 2**23, whose last place is 1.
    found = (numbers * factor + np.float32(12582912)) - np.float32(12582912)
    return wholes(choose(found == found, found, splat(np.float32(0))))


# BF16 numbers from 2**-17 to 65504 are binary16's. Smaller ones stay below half a step under such
# a factor, whichever way they are rounded, and a greatest magnitude over 65504 has a smaller one.
_FACTORS = (np.float32(127 / 65504), np.float32(0.49 * 2.0**17))


@jit
def rows_of_bytes(values: Array, bf16: bool, factors: Floats, columns: int, out: Bytes) -> None:
    """Values as binary16 times their row's factor, to int8, as bytes; NaN is 0."""
    room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
    for row in range(factors.shape[0]):
        end, factor = (row + 1) * columns, factors[row]
        rest = end - columns % 16
        if bf16 and factor >= _FACTORS[0] and factor <= _FACTORS[1]:
            for i in range(row * columns, rest, 16):
                bring(values, i + READ_AHEAD)
                put_bytes(out, i, _byte(lanes(values, i), factor))
        else:
            for i in range(row * columns, rest, 16):
                bring(values, i + READ_AHEAD)
                put_bytes(out, i, _byte(rounded_lanes(lanes(values, i), 2), factor))
        if rest < end:
            numbers = rounded_lanes(some(values, rest, end, room), 2)
            put_some(out, rest, end, _byte(numbers, factor), codes)
