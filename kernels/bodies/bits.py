"""Bodies of `kernels/bits.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline
from anamnesis.kernels.types import Integer

u32 = np.uint32
_SUBNORMAL_F16 = np.float32(2.0**-24)


@inline
def f16_bits_to_f32(half: Integer) -> Any:
    """IEEE binary16 bits to float32, exactly; NaN payloads are kept and infinities stay."""
    # Bit 15 the sign, bits 10-14 the exponent (bias 15), bits 0-9 the mantissa.
    magnitude = u32(half & 0x7FFF)
    shifted = u32(magnitude << u32(13))
    # 112, the distance of both biases, added to the exponent: twice for infinities and NaNs.
    bits = u32(shifted + u32(0x38000000))
    if magnitude >= u32(0x7C00):
        bits = u32(shifted + u32(0x70000000))
    value = as_f32(bits)
    if magnitude < u32(0x400):
        # Subnormal: a count of 2**-24.
        value = np.float32(np.int32(magnitude)) * _SUBNORMAL_F16
    return as_f32(u32(as_u32(value) | u32(u32(half & 0x8000) << u32(16))))
