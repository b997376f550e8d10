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

from anamnesis.kernels._ends_ggml import by_codes, by_scale
from anamnesis.kernels._ggml import of_groups
from anamnesis.kernels._native import Kernel, variants
from anamnesis.kernels.encoders import Encode

ends_iq4_nl = by_scale(-138.5, 125.0)
ends_iq4_xs = by_codes(8, 136, 11)  # its last two are as far apart as if there were so many


def _encoder(encoding: str, kernels: Callable[[int], Kernel], span: int) -> Encode:
    """Weights, which the first kernel does not use, have the variance of `span` elements."""
    alone, weighted = kernels(0), kernels(1)
    return of_groups(
        encoding,
        lambda flat, groups, out: alone(flat, groups, groups, out),
        (32, span, -2),
        weighted,
    )


encode_iq4_nl = _encoder("gguf-iq4-nl", variants("encode_gguf_iq4:iq4_nl"), 32)
encode_iq4_xs = _encoder("gguf-iq4-xs", variants("encode_gguf_iq4:iq4_xs"), 256)
