"""How far the numbers of an encoder's groups reach, from the parts that it filled.

A number is clipped where it lies farther past the last code of its group than rounding goes: by
more than half of the step between the last two codes. An encoder's `ends_X` gives both bounds for
each group of a window, half steps included, in terms of what is here; ggml's are in `_ends_ggml`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels.encoders import function_of
from anamnesis.kernels.readback import Facts, Parts
from anamnesis.kernels.types import Array, Floats

E2M1_END = np.float32(7)  # 6, and half a step


class Ends(NamedTuple):
    """`size` elements of a row of `columns`, the last fewer, lie between `low` and `high`, flat."""

    columns: int
    size: int
    low: Floats
    high: Floats


NO_ENDS = Ends(1, 1, np.empty(0, np.float32), np.empty(0, np.float32))  # where nothing is lost


def ends_of(parts: Parts, facts: Facts) -> Ends:
    """The ends of every group of a window of `facts.rows` units."""
    with np.errstate(all="ignore"):
        found: Ends = function_of(facts.target, "ends")(parts, facts)
    return found


def around(size: Array, columns: int, group: int) -> Ends:
    """Ends as far below 0 as above."""
    size = np.abs(np.ascontiguousarray(size, np.float32).reshape(-1))
    return Ends(columns, group, -size, size)


def between(first: Array, last: Array, columns: int, group: int) -> Ends:
    """Ends in either order: that of the lowest code is the higher one where a scale is negative."""
    ends = [np.ascontiguousarray(e, np.float32).reshape(-1) for e in (first, last)]
    return Ends(columns, group, np.minimum(*ends), np.maximum(*ends))


def by_exponents(exponents: Array, end: float, columns: int, group: int) -> Ends:
    """Of scales E8M0, of numbers that end with `end` under 2**0."""
    low, high = _reaches(float(end))
    return Ends(columns, group, low[exponents].reshape(-1), high[exponents].reshape(-1))


@cache
def _reaches(end: float) -> tuple[Any, Any]:
    """Where groups of each exponent end, of numbers that end with `end` under 2**0."""
    powers = np.ldexp(np.float32(1), np.arange(256) - 127)
    with np.errstate(over="ignore"):
        high = powers * np.float32(end)
    return -high, high


def wide(numbers: Array) -> Array:
    """Scales, of BF16 bits or numpy's own floats, as float32."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32)
