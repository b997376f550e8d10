"""Least and greatest numbers of groups, and their greatest magnitudes.

Floats are compared by their bits, as integers in the same order, since loops over those
vectorise: a magnitude is its bits without the sign; a signed number's bits below the sign are
flipped where it is negative. A NaN is above every number there (or below, if its sign is set), so
that a group with one gives one, as torch's `amin` and `amax` do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array

_ends = kernel("_extremes:ends")
_magnitudes = kernel("_extremes:magnitudes")


def magnitudes(values: Array, group: int) -> Array:
    """The greatest magnitude of each `group` numbers of a flat array, of float32 or BF16's bits."""
    greatest = np.empty(len(values) // group, np.int32)
    _magnitudes(values, group, greatest)
    return greatest.view(np.float32)


def ends(values: Array, group: int) -> tuple[Any, Any]:
    """The least and the greatest of each `group` numbers; NaN, both, if one is NaN."""
    found = np.empty((2, len(values) // group), np.float32)
    _ends(values, group, found[0], found[1])
    return found[0], found[1]
