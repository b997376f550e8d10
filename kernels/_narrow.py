"""Arithmetic that libraries do in BF16 or binary16, on float32 numbers.

A library that computes in a narrow dtype rounds after every operation. With exact operands a
float32 operation, rounded once more, is that operation (for + - * / of at most 11-bit numbers).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels._codes import to_half
from anamnesis.kernels._jit import as_f32, as_u32, inline
from anamnesis.kernels.bits import u32

KINDS = {"F32": 0, "BF16": 1, "F16": 2}
# torch.finfo(dtype).eps
EPSILON = {"F32": 2.0**-23, "BF16": 2.0**-7, "F16": 2.0**-10}


@inline
def rounded(value: Any, kind: Any) -> Any:
    """A float32 rounded to the dtype of `KINDS`, nearest, ties to even; NaNs stay NaNs."""
    if kind == 1:
        bits = as_u32(value)
        up = u32(u32(bits + u32(0x7FFF)) + u32(u32(bits >> u32(16)) & u32(1)))
        near = as_f32(u32(up & u32(0xFFFF0000)))
        return near if value == value else value
    if kind == 2:
        return to_half(value)
    return value


def bf16_bits(values: Any) -> Any:
    """BF16 bits, uint16, of a float32 array; NaNs made quiet."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    near = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, near).astype(np.uint16)


def stored(values: Any, dtype: str) -> Any:
    """A float32 array in a dtype's own numpy form: BF16 as uint16 bits."""
    if dtype == "BF16":
        return bf16_bits(values)
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16) if dtype == "F16" else values


def narrow(values: Any, dtype: str) -> Any:
    """A float32 array rounded to a dtype and back; always a new array for a narrow one."""
    if dtype == "BF16":
        return (bf16_bits(values).astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return stored(values, dtype).astype(np.float32)
    return values
