"""What ggml's encoders share: its roundings, in float32 and in ggml's own order, and block glue.

Sums run from the first element to the last, as C compiled without `-ffast-math` has it; a product
and a sum are two roundings, as in a build without fused multiply-add (libggml-python's). Source:
https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Bytes, Integer, Real

_i32 = np.int32
_MAGIC = np.float32(12582912)  # 1.5 * 2**23, whose last place is 1
LEAST_MAX = np.float32(1e-15)  # below it a group counts as zeros


@inline
def nearest(value: Real) -> Any:
    """`nearest_int`: int32, ties to even; what is past 2**22 wraps, as there."""
    bits = as_u32(np.float32(value + _MAGIC))
    # 23 bits of mantissa are the number plus 2**22.
    return _i32(_i32(u32(bits & u32(0x007FFFFF))) - _i32(0x00400000))


@inline
def clamped(value: Integer, low: int, high: int) -> Any:
    """An int32 between two others."""
    return _i32(max(_i32(low), min(_i32(high), _i32(value))))


@inline
def truncated(value: Real) -> Any:
    """A float32 towards zero as int32; what has no such number is -2**31, as on x86."""
    return _i32(value) if abs(value) < np.float32(2147483648) else _i32(-2147483648)


@inline
def away(value: Real) -> Any:
    """`roundf` as int32: ties away from zero."""
    size = abs(value)
    whole = np.floor(size)
    if size - whole >= np.float32(0.5):
        whole = np.float32(whole + np.float32(1))
    return truncated(-whole if value < 0 else whole)


@inline
def half_bits(value: Real) -> Any:
    """Binary16 bits of a float32, nearest, ties to even; 0x7E00 with its sign for a NaN."""
    bits = as_u32(value)
    magnitude = u32(bits & u32(0x7FFFFFFF))
    # 23 bits of mantissa to 10: 13 go. Exponents are 112 apart (127 and 15).
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    normal = u32(u32(u32(u32(magnitude + u32(0xFFF)) + odd) - u32(0x38000000)) >> u32(13))
    # Below 2**-14: a count of 2**-24, the last place of 0.5.
    small = u32(as_u32(as_f32(magnitude) + np.float32(0.5)) - u32(0x3F000000))
    half = small if magnitude < u32(0x38800000) else min(normal, u32(0x7C00))
    if magnitude > u32(0x7F800000):
        half = u32(0x7E00)
    # Bit 31 becomes bit 15.
    return u32(half | u32(u32(bits >> u32(16)) & u32(0x8000)))


@inline
def put_half(out: Bytes, at: int, half: Integer) -> None:
    """Store binary16 bits in two bytes."""
    # Little-endian.
    out[at] = np.uint8(half & 0xFF)
    out[at + 1] = np.uint8(half >> 8)
