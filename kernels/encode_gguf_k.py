"""GGUF's K types: super-blocks of 256 elements, scales found by searching.

| type | group | codes | search of a group's scale | scales' own scale |
|---|---|---|---|---|
| Q2_K | 16 | 0-3 | with a minimum, weights `|w|`, least weighted distance | greatest / 15 |
| Q3_K | 16 | -4-3 | weights `w * w`, codes improved one by one, up to 5 times | -32 |
| Q4_K | 32 | 0-15 | with a minimum, weights `sqrt(mean(w * w)) + |w|` | greatest / 63 |
| Q5_K | 32 | 0-31 | the same | greatest / 63 |
| Q6_K | 16 | -32-31 | weights `w * w`, 18 scales around the first | -128 |

Codes are found again under the scales as stored. With an importance matrix, weights are that of the
column times `sqrt(variance + w * w)`, the variance being the mean of `w * w` in a super-block
(Q2_K) or twice that; in Q6_K the column's alone. Scales' own scales are searched for too, but in
Q6_K. Layouts are in `gguf_k`. Source: ggml `src/ggml-quants.c`, `quantize_row_q2_K_ref` to
`quantize_row_q6_K_ref` and `quantize_row_q2_K_impl` to `quantize_row_q6_K_impl`.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._ends_ggml import by_codes
from anamnesis.kernels._ggml import of_groups, weighted_rows
from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels.types import Floats, Outputs, Params

_q2_k = kernel("encode_gguf_k:q2_k")
_q3_k = kernel("encode_gguf_k:q3_k")
_q6_k = variants("encode_gguf_k:q6_k")
_with_minimums = variants("encode_gguf_k:with_minimums")
_weighted_q2_k = kernel("encode_gguf_k_weighted:q2_k")
_weighted_q3_k = kernel("encode_gguf_k_weighted:q3_k")
_weighted_with_minimums = variants("encode_gguf_k_weighted:with_minimums")
ends_q2_k, ends_q3_k = by_codes(16, 80, 4), by_codes(0, 96, 8)
ends_q4_k, ends_q5_k = by_codes(16, 144, 16), by_codes(16, 176, 32)
ends_q6_k = by_codes(0, 192, 64)
encode_q2_k = of_groups("gguf-q2-k", _q2_k, (16, 256, 1), _weighted_q2_k)
encode_q3_k = of_groups("gguf-q3-k", _q3_k, (16, 256, 2), _weighted_q3_k)
_HOW = 32, 256, 2
encode_q4_k = of_groups("gguf-q4-k", _with_minimums(15), _HOW, _weighted_with_minimums(15))
encode_q5_k = of_groups("gguf-q5-k", _with_minimums(31), _HOW, _weighted_with_minimums(31))


def encode_q6_k(values: Floats, params: Params, out: Outputs) -> None:
    """`quantize_q6_K`."""
    weights = params.get("weights")
    if not weights:
        groups = values.reshape(-1, 16)
        _q6_k(0)(values, groups, groups, out["blocks"])
        return
    for some, columns, blocks in weighted_rows(values, params, "gguf-q6-k", out["blocks"]):
        spread = np.broadcast_to(columns, (len(some) // len(columns), len(columns)))
        groups = np.ascontiguousarray(spread).reshape(-1, 16)
        _q6_k(1)(some, some.reshape(-1, 16), groups, blocks)
