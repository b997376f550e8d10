"""GGUF's first block types, 32 elements each: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

| type | scale d | code of an element |
|---|---|---|
| Q8_0 | greatest magnitude / 127 | `roundf(w / d)` |
| Q4_0, Q5_0 | the number of greatest magnitude / -8, -16 | `trunc(w / d + 8.5)`, `+ 16.5` |
| Q4_1, Q5_1 | (most - least) / 15, 31; m = least | `trunc((w - m) / d + 0.5)` |

where `w / d` is `w * (1 / d)`, of the float32 d that is then stored as binary16. Layouts are in
`gguf_legacy`. Source: ggml `src/ggml-quants.c`, `quantize_row_q8_0_ref` and its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.kernels._ggml import run_blocks
from anamnesis.kernels._native import kernel, variants

_above_least = variants("encode_gguf_legacy:above_least")
_around_zero = variants("encode_gguf_legacy:around_zero")
_q8_0 = kernel("encode_gguf_legacy:q8_0")


def encode_q8_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q8_0_ref`."""
    run_blocks(_q8_0, values, "gguf-q8-0", out["blocks"])


def encode_q4_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q4_0_ref`."""
    run_blocks(_around_zero(8), values, "gguf-q4-0", out["blocks"])


def encode_q4_1(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q4_1_ref`."""
    run_blocks(_above_least(15), values, "gguf-q4-1", out["blocks"])


def encode_q5_0(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q5_0_ref`."""
    run_blocks(_around_zero(16), values, "gguf-q5-0", out["blocks"])


def encode_q5_1(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q5_1_ref`."""
    run_blocks(_above_least(31), values, "gguf-q5-1", out["blocks"])
