"""Codes in a packed stream, and scales and zero points as float32.

    code k of a stream = bits [k * b, (k + 1) * b) of its little-endian bytes

Nothing here is bounds-checked.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels.types import Array, Bytes, Numbers

_zeros = variants("_codes:zero_points")
widen = kernel("_codes:widen")


def bits_of(dtype: str, columns: Bytes) -> Numbers:
    """Those of numbers of that dtype, from uint8 `[lines, bytes]`, or `[bytes]`."""
    return np.ascontiguousarray(columns).view("<u4" if dtype == "F32" else "<u2"), dtype == "F16"


def read_scales(dtype: str, columns: Bytes) -> Array:
    """Scales as float32 `[groups, rows]`, from their uint8 `[groups, bytes]`; NaNs made quiet."""
    raw, half = bits_of(dtype, columns)
    scales = np.empty(raw.shape, np.float32)
    widen(raw.reshape(-1), half, scales.reshape(-1))
    return scales


def read_zeros(
    columns: Array, bits: int, offset: int, carry: int, nibbles: bool, shape: tuple[int, int]
) -> Array:
    """Zero points as float32 of `shape`, `[groups, rows]`, from their uint8 `[groups, bytes]`.

    `offset` is added to each field, modulo `2 ** bits`. With a `carry`, what overflows goes on
    into the next field of a word of `carry` fields. `nibbles` are in AWQ's order.
    """
    groups, rows = shape
    if columns.shape[0] != groups or columns.shape[1] * 8 < rows * bits:
        raise ValueError(f"qzeros: {columns.shape} bytes for {shape} zero points of {bits} bits")
    zeros = np.empty(shape, np.float32)
    unpack = _zeros(bits, "nibbles" if nibbles else "carry" if carry else "plain")
    codes = np.empty((columns.shape[1] // bits + 1) * 8, np.uint8)
    unpack(np.ascontiguousarray(columns), offset, carry, codes, zeros)
    return zeros
