"""Scalar conversions between the number formats that scales and codes are stored in."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.types import Array, Component


def to_float32(dtype: str, array: Array) -> Array:
    """Scales of any stored dtype as float32, exactly; a new array of the same shape.

    `array` holds the raw numbers: float32, float16, float64, or the bits (`uint16` for BF16,
    `uint8` for E8M0 exponents, where 255 is NaN as the OCP MX specification says).
    """
    if dtype == "F32":
        return np.array(array, dtype=np.float32)
    if dtype in ("F16", "F64"):
        with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
            return array.astype(np.float32)
    if dtype == "BF16":
        # BF16 is the upper half of a float32.
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F8_E8M0", "U8"):
        exponent = array.astype(np.uint32)
        # 2**-127 is subnormal: its bits are half of the smallest normal's mantissa range.
        bits = np.where(exponent == 0, np.uint32(0x00400000), exponent << 23)
        return np.where(exponent == 255, np.uint32(0x7FC00000), bits).view(np.float32)
    raise ValueError(f"no scale dtype: {dtype}")


def numbers_of(stored: Component) -> Array:
    """A whole component as float32, a new array; its NaNs are such that rounding keeps them."""
    numbers = np.asarray(to_float32(stored.dtype, stored.array))  # a number alone is no array
    numbers[np.isnan(numbers)] = np.nan
    return numbers
