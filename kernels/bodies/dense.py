"""Bodies of `kernels/dense.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, jit, put
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32
from anamnesis.kernels.types import Array, Floats


@jit
def f32(source: Floats, out: Array) -> None:
    """float32 as it is, or rounded."""
    for i in range(out.shape[0]):
        put(out, i, source[i])


@jit
def f16(source: Array, out: Array) -> None:
    """binary16: sign, 5 bits of exponent, 10 of mantissa."""
    for i in range(out.shape[0]):
        put(out, i, f16_bits_to_f32(source[i]))


@jit
def bf16(source: Array, out: Floats) -> None:
    """BF16: the upper half of a float32."""
    for i in range(out.shape[0]):
        put(out, i, as_f32(u32(source[i]) << u32(16)))


@jit
def to_odd(source: Array, single: Floats) -> None:
    """`single`, `source` rounded to nearest, made rounded to odd where it is not exact."""
    bits = single.view(np.uint32)
    for i in range(source.shape[0]):
        exact = source[i]
        near = np.float64(single[i])
        if near == exact or exact != exact:
            continue
        if abs(near) > abs(exact):  # step back towards zero, so that the next step is to odd
            # Bits of a float32 are in the order of magnitudes.
            bits[i] -= u32(1)
        # To odd: a second rounding then cannot fall on a tie that was none.
        bits[i] |= u32(1)
