"""GGUF's K types: super-blocks of 256 elements, scales found by searching.

| type | group | codes | search of a group's scale | scales' own scale |
|---|---|---|---|---|
| Q2_K | 16 | 0-3 | with a minimum, weights `|w|`, least weighted distance | greatest / 15 |
| Q3_K | 16 | -4-3 | weights `w * w`, codes improved one by one, up to 5 times | -32 |
| Q4_K | 32 | 0-15 | with a minimum, weights `sqrt(mean(w * w)) + |w|` | greatest / 63 |
| Q5_K | 32 | 0-31 | the same | greatest / 63 |
| Q6_K | 16 | -32-31 | weights `w * w`, 18 scales around the first | -128 |

Codes are found again under the scales as stored. Layouts are in `gguf_k`. Source: ggml
`src/ggml-quants.c`, `quantize_row_q2_K_ref` to `quantize_row_q6_K_ref`, `make_qkx2_quants`,
`make_q3_quants`, `make_qx_quants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.kernels._ggml import run_groups
from anamnesis.kernels._native import kernel, variants

_q2_k = kernel("encode_gguf_k:q2_k")
_q3_k = kernel("encode_gguf_k:q3_k")
_q6_k = kernel("encode_gguf_k:q6_k")
_with_minimums = variants("encode_gguf_k:with_minimums")


def encode_q2_k(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q2_K_ref`."""
    run_groups(_q2_k, values, 16, "gguf-q2-k", out["blocks"])


def encode_q3_k(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q3_K_ref`."""
    run_groups(_q3_k, values, 16, "gguf-q3-k", out["blocks"])


def encode_q4_k(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q4_K_ref`."""
    run_groups(_with_minimums(15), values, 32, "gguf-q4-k", out["blocks"])


def encode_q5_k(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q5_K_ref`."""
    run_groups(_with_minimums(31), values, 32, "gguf-q5-k", out["blocks"])


def encode_q6_k(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_row_q6_K_ref`."""
    run_groups(_q6_k, values, 16, "gguf-q6-k", out["blocks"])
