"""Least and greatest numbers of groups, and their greatest magnitudes.

Floats are compared by their bits, as integers in the same order, since loops over those
vectorise: a magnitude is its bits without the sign; a signed number's bits below the sign are
flipped where it is negative. A NaN is above every number there (or below, if its sign is set), so
that a group with one gives one, as torch's `amin` and `amax` do.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array

_i32 = np.int32


@jit
def magnitudes(bits: Array, group: int, greatest: Array) -> None:
    """The greatest magnitude of each group, as float32 bits; a NaN is above all."""
    for g in range(greatest.shape[0]):
        most = u32(0)
        for i in range(g * group, (g + 1) * group):
            bit = u32(bits[i] & u32(0x7FFFFFFF))
            most = max(most, bit)
        greatest[g] = most


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
