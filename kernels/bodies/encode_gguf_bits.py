"""Bodies of `kernels/encode_gguf_bits.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import away, clamped, half_bits, put_half
from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.types import Bytes, Floats


@inline
def _greatest(values: Floats, first: int, count: int) -> Any:
    most = np.float32(0)
    for i in range(first, first + count):
        size = abs(values[i])
        most = size if size > most else most
    return most


@inline
def _inverse(d: np.float32) -> Any:
    return np.divide(np.float32(1), d) if d > 0 else np.float32(0)


@jit
def q1_0(values: Floats, out: Bytes) -> None:
    """Q1_0: the mean magnitude as `d` f16, then a bit for each of 128 elements, lowest first."""
    for b in range(values.shape[0] // 128):
        total = np.float32(0)
        for i in range(128 * b, 128 * b + 128):
            total = np.float32(total + abs(values[i]))
        put_half(out, 18 * b, half_bits(np.float32(total / np.float32(128))))
        for i in range(16):
            byte = 0
            for j in range(8):
                # Bit j of byte i is element 8 i + j; zeros count as positive.
                byte |= (1 if values[128 * b + 8 * i + j] >= 0 else 0) << j
            out[18 * b + 2 + i] = np.uint8(byte)


@jit
def q2_0(values: Floats, out: Bytes) -> None:
    """Q2_0: `d` f16, then two bits for each of 64 elements, lowest first."""
    for b in range(values.shape[0] // 64):
        d = _greatest(values, 64 * b, 64)
        inverse = _inverse(d)
        put_half(out, 18 * b, half_bits(d))
        for i in range(16):
            byte = 0
            for j in range(4):
                code = away(values[64 * b + 4 * i + j] * inverse)
                # Bits 2 j, 2 j + 1 of byte i are element 4 i + j, plus 1.
                byte |= clamped(code + 1, 0, 3) << (2 * j)
            out[18 * b + 2 + i] = np.uint8(byte)


@jit
def tq2_0(values: Floats, out: Bytes) -> None:
    """TQ2_0: byte i of 32 holds elements i, 32 + i, 64 + i, 96 + i, lowest first; `d` f16 last."""
    for b in range(values.shape[0] // 256):
        d = _greatest(values, 256 * b, 256)
        inverse = _inverse(d)
        put_half(out, 66 * b + 64, half_bits(d))
        for i in range(64):
            byte = 0
            first = 256 * b + i // 32 * 128 + i % 32
            for j in range(4):
                # Bits 2 j, 2 j + 1 of byte l of half h are element 128 h + 32 j + l, plus 1.
                byte += ((away(values[first + 32 * j] * inverse) + 1) & 3) << (2 * j)
            out[66 * b + i] = np.uint8(byte & 0xFF)


@inline
def _digits(values: Floats, first: int, step: int, count: int, inverse: np.float32) -> Any:
    """Base-3 digits of `count` elements `step` apart, and zeros up to five, as a byte."""
    number = 0
    for j in range(5):
        digit = away(values[first + step * j] * inverse) + 1 if j < count else 0
        number = (number * 3 + digit) & 0xFF
    # A fraction of 243 as one of 256, rounded up, so that digits come out by multiplying by 3.
    return np.uint8((number * 256 + 242) // 243)


@jit
def tq1_0(values: Floats, out: Bytes) -> None:
    """TQ1_0: bytes of five base-3 digits (32, then 16), four bytes of four; `d` f16 last."""
    for b in range(values.shape[0] // 256):
        d = _greatest(values, 256 * b, 256)
        inverse = _inverse(d)
        at, first = 54 * b, 256 * b
        for i in range(32):
            out[at + i] = _digits(values, first + i, 32, 5, inverse)
        for i in range(16):
            out[at + 32 + i] = _digits(values, first + 160 + i, 16, 5, inverse)
        for i in range(4):
            out[at + 48 + i] = _digits(values, first + 240 + i, 4, 4, inverse)
        put_half(out, at + 52, half_bits(d))
