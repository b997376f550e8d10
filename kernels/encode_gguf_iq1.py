"""GGUF's IQ1 types: points of eight -1, 0 or 1, moved by an eighth up or down.

| type | elements of a scale | shifts | groups count as zeros below |
|---|---|---|---|
| IQ1_S | 32 | one, of 32 | 1e-12 |
| IQ1_M | 16 | two, of eight each | 1e-7 |

Elements in order of size are cut in three at the best of all places, under every shift. Weights are
those of IQ3 (`encode_gguf_iq3`); IQ1_S needs an importance matrix. Elements of one size stay in
order, as a stable `qsort` leaves them (glibc's). Layouts are in `gguf_iq1`. Source: ggml
`src/ggml-quants.c`, `quantize_row_iq1_s_impl`, `quantize_row_iq1_m_impl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.kernels._ggml import weighed_blocks
from anamnesis.kernels._iq_tables import tables
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Floats

_iq1_s = kernel("encode_gguf_iq1:iq1_s")
_iq1_m = kernel("encode_gguf_iq1:iq1_m")


def encode_iq1_s(values: Floats, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_iq1_s`."""
    grid = tables("iq1s_grid")
    for part in weighed_blocks(values, params, (2, 0.0), "gguf-iq1-s", out["blocks"]):
        some, weights, blocks = part
        _iq1_s(some, weights, *grid, blocks)


def encode_iq1_m(values: Floats, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_iq1_m`."""
    grid = tables("iq1s_grid")
    for part in weighed_blocks(values, params, (2, 0.0), "gguf-iq1-m", out["blocks"]):
        some, weights, blocks = part
        _iq1_m(some, weights, *grid, blocks)
