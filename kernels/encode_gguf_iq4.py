"""GGUF's IQ4 types: sixteen fixed numbers, times a scale of 32 elements found by searching.

    IQ4_NL    d of 32 elements
    IQ4_XS    d of 256, and a scale of six bits for each 32: d * (s - 32)

Weights are `w * w`; sixteen scales are tried, of which the greatest element is `(k - 127)` of,
k from -7 to 7, and 127 first. The number nearest to w / d counts, the higher one of a tie.
Layouts are in `gguf_iq4`. Source: ggml `src/ggml-quants.c`, `quantize_row_iq4_nl_impl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.kernels._ggml import run_groups
from anamnesis.kernels._native import kernel

_iq4_nl = kernel("encode_gguf_iq4:iq4_nl")
_iq4_xs = kernel("encode_gguf_iq4:iq4_xs")


def encode_iq4_nl(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_iq4_nl` without an importance matrix."""
    run_groups(_iq4_nl, values, 32, "gguf-iq4-nl", out["blocks"])


def encode_iq4_xs(values: Any, params: Mapping[str, Any], out: Mapping[str, Any]) -> None:
    """`quantize_iq4_xs` without an importance matrix."""
    run_groups(_iq4_xs, values, 32, "gguf-iq4-xs", out["blocks"])
