"""Arithmetic that libraries do in BF16 or binary16, on float32 numbers.

A library that computes in a narrow dtype rounds after every operation. With exact operands a
float32 operation, rounded once more, is that operation (for + - * / of at most 11-bit numbers).
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._native import variants
from anamnesis.kernels.types import Array, Floats

KINDS = {"F32": 0, "BF16": 1, "F16": 2}
_MANY = 512  # of binary16, from which on a kernel takes less time than numpy
_narrowed = variants("_narrow_lanes:narrowed")
# torch.finfo(dtype).eps
EPSILON = {"F32": 2.0**-23, "BF16": 2.0**-7, "F16": 2.0**-10}


def bf16_bits(values: Floats) -> Array:
    """BF16 bits, uint16, of a float32 array; NaNs made quiet."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    near = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, near).astype(np.uint16)


def stored(values: Array, dtype: str) -> Array:
    """A float32 array in a dtype's own numpy form: BF16 as uint16 bits."""
    if dtype == "BF16":
        return bf16_bits(values)
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16) if dtype == "F16" else values


def narrow(values: Array, dtype: str) -> Array:
    """A float32 array rounded to a dtype and back; always a new array for a narrow one."""
    if dtype == "F32":
        return values
    if dtype == "F16" and values.size < _MANY:
        return stored(values, dtype).astype(np.float32)
    near = np.empty_like(values, order="C")
    _narrowed(KINDS[dtype])(np.ascontiguousarray(values).reshape(-1), near.reshape(-1))
    return near
