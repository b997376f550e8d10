"""Least and greatest numbers of groups, and their greatest magnitudes.

Floats are compared by their bits, as integers in the same order, since loops over those
vectorise: a magnitude is its bits without the sign; a signed number's bits below the sign are
flipped where it is negative. A NaN is above every number there (or below, if its sign is set), so
that a group with one gives one, as torch's `amin` and `amax` do.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, local, stack
from anamnesis.kernels.bodies._lanes import greatest_of, lanes, most_of, put_lanes, splat
from anamnesis.kernels.types import Array

_i32 = np.int32
_tile, _room = stack(1024), stack(64)


@jit
def magnitudes(bits: Array, group: int, greatest: Array) -> None:
    """The greatest magnitude of each group, as float32 bits; a NaN is above all."""
    if group % 16 == 0:
        _of_whole_runs(bits, group, greatest)
        return
    for g in range(greatest.shape[0]):
        most = _i32(0)
        for i in range(g * group, (g + 1) * group):
            bit = _i32(bits[i] & _i32(0x7FFFFFFF))
            most = max(most, bit)
        greatest[g] = most


@inline
def _of_whole_runs(bits: Array, group: int, greatest: Array) -> None:
    """The same for groups of whole runs of 16: sixteen groups are folded together."""
    tile, room = local(_tile(), (16, 16), _i32), local(_room(), 16, _i32)
    for first in range(0, greatest.shape[0], 16):
        count = min(16, greatest.shape[0] - first)
        for k in range(count):
            most = splat(0)
            for i in range((first + k) * group, (first + k + 1) * group, 16):
                most = most_of(lanes(bits, i) & 0x7FFFFFFF, most)
            put_lanes(tile, 16 * k, most)
        if count == 16:
            put_lanes(greatest, first, greatest_of(tile))
        else:
            put_lanes(room, 0, greatest_of(tile))
            for k in range(count):
                greatest[first + k] = room[k]


@jit
def ends(bits: Array, group: int, least: Array, most: Array) -> None:
    """Least and greatest of each group, as keys in the order of the numbers."""
    for g in range(least.shape[0]):
        low, high = _i32(0x7FFFFFFF), _i32(-0x80000000)
        for i in range(g * group, (g + 1) * group):
            bit = bits[i]
            # Negative numbers have all other bits turned.
            key = _i32(bit ^ _i32(_i32(bit >> _i32(31)) & _i32(0x7FFFFFFF)))
            low = min(low, key)
            high = max(high, key)
        least[g], most[g] = low, high
