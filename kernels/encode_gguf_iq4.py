"""GGUF's IQ4 types: sixteen fixed numbers, times a scale of 32 elements found by searching.

    IQ4_NL    d of 32 elements
    IQ4_XS    d of 256, and a scale of six bits for each 32: d * (s - 32)

Weights are `w * w`, with an importance matrix that of the column times `sqrt(variance + w * w)`,
the variance being twice the mean of `w * w` under one d. Sixteen scales are tried, of which the
greatest element is `(k - 127)` of, k from -7 to 7, and 127 first. The number nearest to w / d
counts, the higher one of a tie. Layouts are in `gguf_iq4`. Source: ggml `src/ggml-quants.c`,
`quantize_row_iq4_nl_impl`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anamnesis.kernels._ends_ggml import by_codes, by_scale
from anamnesis.kernels._ggml import run_blocks, run_weighed
from anamnesis.kernels._native import variants
from anamnesis.kernels.types import Floats, Outputs, Params

_iq4_nl = variants("encode_gguf_iq4:iq4_nl")
_iq4_xs = variants("encode_gguf_iq4:iq4_xs")
ends_iq4_nl = by_scale(-138.5, 125.0)
ends_iq4_xs = by_codes(8, 136, 11)  # its last two are as far apart as if there were so many


def _encode(
    kernels: Callable[..., Any],
    span: int,
    encoding: str,
    values: Floats,
    params: Params,
    out: Outputs,
) -> None:
    """With the weights of columns, whose variance is of `span` elements, or without."""
    if params.get("weights"):
        run_weighed(kernels(1), values, params, (32, span, 2), encoding, out["blocks"])
    else:
        groups = values.reshape(-1, 32)
        run_blocks(
            lambda flat, blocks: kernels(0)(flat, groups, groups, blocks),
            values,
            encoding,
            out["blocks"],
        )


def encode_iq4_nl(values: Floats, params: Params, out: Outputs) -> None:
    """`quantize_iq4_nl`."""
    _encode(_iq4_nl, 32, "gguf-iq4-nl", values, params, out)


def encode_iq4_xs(values: Floats, params: Params, out: Outputs) -> None:
    """`quantize_iq4_xs`."""
    _encode(_iq4_xs, 256, "gguf-iq4-xs", values, params, out)
