"""GGUF's one- and two-bit types: signs (Q1_0), two bits (Q2_0), ternary (TQ1_0, TQ2_0).

| type | elements | scale d | code of an element |
|---|---|---|---|
| Q1_0 | 128 | mean magnitude, summed from the first on | `w >= 0` |
| Q2_0 | 64 | greatest magnitude | `clamp(roundf(w / d) + 1, 0, 3)` |
| TQ1_0, TQ2_0 | 256 | greatest magnitude | `roundf(w / d) + 1` |

where `w / d` is `w * (1 / d)`. Layouts are in `gguf_bits`; TQ1_0's bytes are five base-3 digits as
a fraction of 243, rounded up. Source: ggml `src/ggml-quants.c`, `quantize_row_q1_0_ref`,
`quantize_row_q2_0_ref`, `quantize_row_tq1_0_ref`, `quantize_row_tq2_0_ref`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels._ggml import away, clamped, half_bits, put_half, run_blocks
from anamnesis.kernels._jit import inline, jit


@inline
def _greatest(values: Any, first: Any, count: Any) -> Any:
    most = np.float32(0)
    for i in range(first, first + count):
        size = abs(values[i])
        most = size if size > most else most
    return most


@inline
def _inverse(d: Any) -> Any:
    return np.divide(np.float32(1), d) if d > 0 else np.float32(0)


@jit
def _q1_0(values: Any, out: Any) -> None:
    for b in range(values.shape[0] // 128):
        total = np.float32(0)
        for i in range(128 * b, 128 * b + 128):
            total = np.float32(total + abs(values[i]))
        put_half(out, 18 * b, half_bits(np.float32(total / np.float32(128))))
        for i in range(16):
            byte = 0
            for j in range(8):
                byte |= (1 if values[128 * b + 8 * i + j] >= 0 else 0) << j
            out[18 * b + 2 + i] = np.uint8(byte)


@jit
def _q2_0(values: Any, out: Any) -> None:
    for b in range(values.shape[0] // 64):
        d = _greatest(values, 64 * b, 64)
        inverse = _inverse(d)
        put_half(out, 18 * b, half_bits(d))
        for i in range(16):
            byte = 0
            for j in range(4):
                code = away(values[64 * b + 4 * i + j] * inverse)
                byte |= clamped(code + 1, 0, 3) << (2 * j)
            out[18 * b + 2 + i] = np.uint8(byte)


@jit
def _tq2_0(values: Any, out: Any) -> None:
    for b in range(values.shape[0] // 256):
        d = _greatest(values, 256 * b, 256)
        inverse = _inverse(d)
        put_half(out, 66 * b + 64, half_bits(d))
        for i in range(64):
            byte = 0
            first = 256 * b + i // 32 * 128 + i % 32
            for j in range(4):
                byte += ((away(values[first + 32 * j] * inverse) + 1) & 3) << (2 * j)
            out[66 * b + i] = np.uint8(byte & 0xFF)


@inline
def _digits(values: Any, first: Any, step: Any, count: Any, inverse: Any) -> Any:
    """Base-3 digits of `count` elements `step` apart, and zeros up to five, as a byte."""
    number = 0
    for j in range(5):
        digit = away(values[first + step * j] * inverse) + 1 if j < count else 0
        number = (number * 3 + digit) & 0xFF
    return np.uint8((number * 256 + 242) // 243)


@jit
def _tq1_0(values: Any, out: Any) -> None:
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


def encode_q1_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q1_0_ref`."""
    run_blocks(_q1_0, values, "gguf-q1-0", out["blocks"])


def encode_q2_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q2_0_ref`."""
    run_blocks(_q2_0, values, "gguf-q2-0", out["blocks"])


def encode_tq1_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_tq1_0_ref`."""
    run_blocks(_tq1_0, values, "gguf-tq1-0", out["blocks"])


def encode_tq2_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_tq2_0_ref`."""
    run_blocks(_tq2_0, values, "gguf-tq2-0", out["blocks"])
