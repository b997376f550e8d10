"""Quotients of sixteen numbers and one scale, by its reciprocal wherever codes come out the same.

A division of sixteen float32 takes as long as twenty other operations. A product with the float32
reciprocal is off by less than 2 units in its last place (ulp): the reciprocal by half of one, which
is up to one of the product, and the product by half of one. That changes a code only where a tie
lies between:

BF16, both numbers of 8 bits: the quotient is rounded to 8 bits before it becomes a code, and no
    quotient of two such numbers is a tie of that rounding, nor nearer to one than 2**-17 of itself.
    With `x / s = t` for a tie t, x = s * t would have the 9 bits of t; with `x != s * t`, both
    multiples of one power of two, they differ by 1 of at most 2**17. So adding half of the last
    place and cutting off is rounding to nearest. That is so for quotients that are normal as BF16,
    and below 2 no scale makes others of what is not 0.
float32 and binary16: where a lane is within 4 ulp of what a tie may be, all sixteen are divided.
    Ties have zeros in their last places: of float32 those of the codes, of binary16 its own 12.

448ths of BF16, of BF16 numbers: what a product leaves of the number is divided once more, by two
    fused operations. There are 2**14 pairs of such numbers, but for powers of two, and
    tests/kernels/test_quotients.py holds the codes of them all.

Scales whose reciprocal is not normal are divided by: what stands for it is NaN, and so are products
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline
from anamnesis.kernels.bodies._lanes import as_bits, as_reals, choose, fused, is_any, splat
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.types import Floats

BF16, F16 = 1, 2  # of `KINDS`
_LEAST, _MOST = np.float32(2.0**-126), np.float32(2.0**126)
_REFINED = np.float32(2.0**-64)  # what is left of a number with a code is normal
_ONE, _TWO, _NAN = np.float32(1), np.float32(2), np.float32(np.nan)
_NEAR = 4  # ulp


@inline
def reciprocal(scale: np.float32) -> Any:
    """1 over a scale, or NaN where that is no normal number."""
    return _ONE / scale if scale >= _LEAST and scale <= _MOST else _NAN


@inline
def reciprocals(scales: Floats) -> Any:
    """`reciprocal` of lanes."""
    normal = (scales >= splat(_LEAST)) & (scales <= splat(_MOST))
    return choose(normal, splat(_ONE) / scales, splat(_NAN))


def quotients(kind: int, places: int) -> Callable[..., Any]:
    """`(numbers, scale, inverse)`: lanes over `scale` rounded to `kind`, for codes.

    Every tie between codes has zeros in the `places` last places of its float32. `inverse` is the
    `reciprocal` of the scale. Of BF16, numbers and scales both have to be BF16.
    """
    zeros = (1 << (12 if kind == F16 else places)) - 2 * _NEAR

    def near(numbers: Floats) -> Any:
        # Of a multiple of `1 << places` and 4 on either side, nothing is left but the last 3 bits.
        return is_any((as_bits(numbers) + _NEAR) & zeros == splat(0))

    def divided(numbers: Floats, scale: np.float32, inverse: np.float32) -> Any:
        found = numbers * inverse
        if kind == BF16:
            if inverse == inverse and scale < _TWO:
                return as_reals(as_bits(found) + 0x8000 & -0x10000)
            return rounded_lanes(numbers / scale, kind)
        if near(found):
            found = numbers / scale
        return rounded_lanes(found, kind)

    near = inline(near)
    return inline(divided)


@inline
def sharpened(numbers: Floats, scale: np.float32, inverse: np.float32) -> Any:
    """`refined` of scales that allow it, but for the signs of zeros."""
    found = numbers * inverse
    left = fused(found, splat(-scale), numbers)
    return fused(left, splat(inverse), found)


@inline
def is_sharp(scale: np.float32, inverse: np.float32) -> Any:
    """Whether a scale allows it."""
    return inverse == inverse and scale >= _REFINED


@inline
def refined(numbers: Floats, scale: np.float32, inverse: np.float32) -> Any:
    """BF16 lanes over the 448th of their greatest magnitude, or of one above it, for E4M3 codes."""
    if is_sharp(scale, inverse):
        found = sharpened(numbers, scale, inverse)
        # What is left of -0 is +0, and their sum, too.
        return as_reals(as_bits(found) & 0x7FFFFFFF | as_bits(numbers) & -0x80000000)
    return numbers / scale


def shifted(kind: int) -> Callable[..., Any]:
    """As `quotients` of BF16 numbers and powers of two: below 2, every quotient is exact."""

    def divided(numbers: Floats, scale: np.float32, inverse: np.float32) -> Any:
        if inverse == inverse and scale < _TWO:
            return numbers * inverse
        return rounded_lanes(numbers / scale, kind)

    return inline(divided)
