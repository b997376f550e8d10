"""Arithmetic that libraries do in BF16 or binary16, on float32 numbers.

A library that computes in a narrow dtype rounds after every operation. With exact operands a
float32 operation, rounded once more, is that operation (for + - * / of at most 11-bit numbers).
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels.bodies._codes import to_half
from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Real


@inline
def rounded(value: Real, kind: int) -> Any:
    """A float32 rounded to the dtype of `KINDS`, nearest, ties to even; NaNs stay NaNs."""
    if kind == 1:
        bits = as_u32(value)
        # BF16: the upper 16 bits, ties to even.
        up = u32(u32(bits + u32(0x7FFF)) + u32(u32(bits >> u32(16)) & u32(1)))
        near = as_f32(u32(up & u32(0xFFFF0000)))
        return near if value == value else value
    if kind == 2:
        return to_half(value)
    return value
