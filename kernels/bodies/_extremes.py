"""Least and greatest numbers of groups, and their greatest magnitudes.

Floats are compared by their bits, as integers in the same order, since loops over those
vectorise: a magnitude is its bits without the sign; a signed number's bits below the sign are
flipped where it is negative. A NaN is above every number there (or below, if its sign is set), so
that a group with one gives one, as torch's `amin` and `amax` do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_u32, forced, inline, jit, local, stack
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    is_bf16,
    lanes,
    number,
    put_lanes,
    words,
)
from anamnesis.kernels.bodies._lanes import as_bits, greatest_of, most_of, most_of_pairs, splat
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Ints

_i32 = np.int32
_tile, _room = stack(1024), stack(64)


@jit
def magnitudes(values: Array, group: int, greatest: Array) -> None:
    """The greatest magnitude of each group, as float32 bits; a NaN is above all."""
    if group % 16 == 0:
        _of_whole_runs(values, group, greatest)
        return
    for g in range(greatest.shape[0]):
        most = _i32(0)
        for i in range(g * group, (g + 1) * group):
            most = max(most, _i32(as_u32(number(values, i)) & u32(0x7FFFFFFF)))
        greatest[g] = most


@inline
def _of_whole_runs(values: Array, group: int, greatest: Array) -> None:
    """The same for groups of whole runs of 16: sixteen groups are folded together."""
    tile, room = local(_tile(), (16, 16), _i32), local(_room(), 16, _i32)
    for first in range(0, greatest.shape[0], 16):
        count = min(16, greatest.shape[0] - first)
        found = greatest_lanes(values, first, count, group, tile)
        # The last few groups fill fewer lanes: others are not stored.
        if count == 16:
            put_lanes(greatest, first, found)
        else:
            put_lanes(room, 0, found)
            for k in range(count):
                greatest[first + k] = room[k]


@forced
def greatest_lanes(values: Array, first: int, count: int, group: int, tile: Ints) -> Any:
    """The greatest magnitudes, as bits, of up to 16 groups of whole runs of 16, a lane each.

    A NaN is above all; `tile` is room for `[16, 16]` int32.
    """
    for k in range(count):
        span = (first + k) * group, (first + k + 1) * group
        put_lanes(tile, 16 * k, unpaired(values, raised(values, span, READ_AHEAD, splat(0))))
    return greatest_of(tile)


@forced
def raised(values: Array, span: tuple[int, int], ahead: int, most: Ints) -> Any:
    """`most`, and where they are greater the magnitudes, as bits, of whole runs of 16.

    What is `ahead` of a number is brought near.
    """
    if not is_bf16(values):
        for i in range(span[0], span[1], 16):
            bring(values, i + ahead)
            most = most_of(as_bits(lanes(values, i)) & 0x7FFFFFFF, most)
        return most
    rest = span[1] - (span[1] - span[0]) % 32
    for i in range(span[0], rest, 32):
        bring(values, i + ahead)
        most = most_of_pairs(words(values, i) & 0x7FFF7FFF, most)
    if rest < span[1]:
        bring(values, rest + ahead)
        most = most_of_pairs(as_bits(lanes(values, rest)) & 0x7FFFFFFF, most)
    return most


@inline
def unpaired(values: Array, most: Ints) -> Any:
    """What `raised` has, one number a lane: of BF16 it has two, compared as they are stored."""
    return most_of(most << 16, most & -0x10000) if is_bf16(values) else most


@jit
def ends(values: Array, group: int, least: Array, most: Array) -> None:
    """Least and greatest of each group, as keys in the order of the numbers."""
    for g in range(least.shape[0]):
        low, high = _i32(0x7FFFFFFF), _i32(-0x80000000)
        for i in range(g * group, (g + 1) * group):
            bit = _i32(as_u32(number(values, i)))
            # Negative numbers have all other bits turned.
            key = _i32(bit ^ _i32(_i32(bit >> _i32(31)) & _i32(0x7FFFFFFF)))
            low = min(low, key)
            high = max(high, key)
        least[g], most[g] = low, high
