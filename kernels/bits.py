"""Scalar conversions between the number formats that scales and codes are stored in."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels._jit import as_f32, as_u32, inline

u32 = np.uint32
_SUBNORMAL_F16 = np.float32(2.0**-24)


@inline
def f16_bits_to_f32(half: Any) -> Any:
    """IEEE binary16 bits to float32, exactly; NaN payloads are kept and infinities stay."""
    magnitude = u32(half & 0x7FFF)
    shifted = u32(magnitude << u32(13))
    bits = u32(shifted + u32(0x38000000))
    if magnitude >= u32(0x7C00):
        bits = u32(shifted + u32(0x70000000))
    value = as_f32(bits)
    if magnitude < u32(0x400):
        value = np.float32(np.int32(magnitude)) * _SUBNORMAL_F16
    return as_f32(u32(as_u32(value) | u32(u32(half & 0x8000) << u32(16))))


@inline
def load_f16(row: Any, at: Any) -> Any:
    """The little-endian binary16 at bytes `at`, `at + 1` of a byte row, as float32."""
    return f16_bits_to_f32(u32(row[at]) | u32(u32(row[at + 1]) << u32(8)))


def to_float32(dtype: str, array: Any) -> Any:
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
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F8_E8M0", "U8"):
        exponent = array.astype(np.uint32)
        # 2**-127 is subnormal: its bits are half of the smallest normal's mantissa range.
        bits = np.where(exponent == 0, np.uint32(0x00400000), exponent << 23)
        return np.where(exponent == 255, np.uint32(0x7FC00000), bits).view(np.float32)
    raise ValueError(f"no scale dtype: {dtype}")
