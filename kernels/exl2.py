"""ExLlamaV2's EXL2: groups of inputs with codes of their own width, in the order of a permutation.

| tensor | stored |
|---|---|
| `q_weight` | I32 `[words, out]`: a stream of codes a column, the lowest bits first |
| `q_groups` | I16 `[2 * groups]`: bits of a group's codes, and its first line of words |
| `q_scale` | I32 `[groups, out / 8]`: four bits a column, the lowest first |
| `q_scale_max` | F16 `[groups]` |
| `q_invperm` | I32 `[in]`: where among the codes an input is; or `q_perm`, the inverse |

Codes have 2, 3, 4, 5, 6 or 8 bits, and those of a group fill whole words.

    scale = (q_scale + 1)**2 * q_scale_max / 256
    value = (code - 2**(bits - 1)) * scale

The scale is exact in float32, the value is rounded to float32, and once to a narrower format. Under
`reference` the maximum over 256, the scale and the value are each rounded to binary16, as
ExLlamaV2's kernel computes. What comes out is `[out, in]`. Source: PyPI exllamav2 0.3.2 ext.py
(`make_q_matrix`), exllamav2_ext/cuda/q_matrix.cu (`reconstruct_kernel`), cuda/quant/qdq_*.cuh.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import PayloadError, Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Indices, Ints, Params, Views, Wholes

BITS = (2, 3, 4, 5, 6, 8)
_WORD = 32
_rows = kernel("exl2:rows")


class _Codes(NamedTuple):
    """Where the code of each stored input is, int32 `[in]` of each.

    `word` is the line that its lowest bit is in, `place` the input that it is of.
    """

    bits: Ints
    word: Ints
    shift: Ints
    group: Ints
    place: Ints


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`codes`, and `scales`, float32 `[groups, 16]`: one for each number of `q_scale`.

    `scalars`: `in_features`, `words` and `rounding`; `wholes`: `groups`, `scale_max`, and `invperm`
    or `perm`. Raises PayloadError for groups that are not those of the words, and for what is no
    permutation.
    """
    inputs = scalars["in_features"]
    # Pairs of 16 bits: the width of a group's codes, and its first line.
    groups = wholes["groups"].array.reshape(-1).view(np.uint16).astype(np.int64).reshape(-1, 2)
    most = wholes["scale_max"].array.reshape(-1).astype(np.float32)
    # A nibble n of `q_scale` stands for (n + 1) ** 2 parts of 256 of the greatest.
    squares = np.arange(1, 17, dtype=np.float32) ** 2
    narrow = scalars["rounding"] == "reference"
    with np.errstate(over="ignore", invalid="ignore"):  # what a file says
        over = _narrowed(most / np.float32(256), narrow)
        scales = _narrowed(over[:, None] * squares, narrow)
    scales[np.isnan(scales)] = np.nan
    places = _places(wholes, inputs)
    return {"codes": _codes(groups, inputs, scalars["words"], places), "scales": scales}


def _narrowed(numbers: Array, narrow: bool) -> Array:
    return numbers.astype(np.float16).astype(np.float32) if narrow else numbers


def _places(wholes: Wholes, inputs: int) -> Array:
    """The input that each stored one is."""
    name = "invperm" if "invperm" in wholes else "perm"
    order = wholes[name].array.reshape(-1).astype(np.int64)
    if not np.array_equal(np.sort(order), np.arange(inputs)):
        raise PayloadError(f"q_{name} is no permutation of {inputs:,} inputs")
    return np.argsort(order) if name == "invperm" else order


def _codes(groups: Array, inputs: int, words: int, places: Indices) -> _Codes:
    bits, starts = groups[:, 0], groups[:, 1]
    lines = np.diff(starts, append=words)
    if not np.isin(bits, BITS).all() or (starts[:1] != 0).any() or (lines < 1).any():
        raise PayloadError(
            f"q_groups are no widths of {', '.join(map(str, BITS))} bits and first words, from 0 "
            f"up, of {words:,}"
        )
    # A group has as many inputs as its lines of words have codes.
    counts = lines * _WORD // bits
    if (counts * bits != lines * _WORD).any() or counts.sum() != inputs:
        raise PayloadError(f"q_groups are of {counts.sum():,} inputs; allowed are {inputs:,}")
    group = np.repeat(np.arange(len(groups)), counts)
    inside = np.arange(inputs) - np.repeat(np.cumsum(counts) - counts, counts)
    # Codes of a group run down its words, the first in the lowest bits.
    at = inside * bits[group]
    return _Codes(*(
        np.ascontiguousarray(numbers, np.int32)
        for numbers in (bits[group], starts[group] + at // _WORD, at % _WORD, group, places)
    ))  # fmt: skip


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows of the output `window`, of uint8 `[words, bytes]` and of `scale` `[groups, bytes]`.

    `params`: what `prepare` made, and `rounding`. Raises ValueError for arrays that do not fit.
    """
    codes, scales, units = params["codes"], params["scales"], window.stop - window.start
    raw, packed = blocks["weight"], blocks["scale"]
    inputs = len(codes.bits)
    if (
        raw.shape != (params["words"], 4 * units)
        or packed.shape != (len(scales), -(-units // 2))
        or out.shape != (units * inputs,)
    ):
        raise ValueError(f"weight {raw.shape}, scale {packed.shape}, out {out.shape}: {window}")
    words = raw.view("<u4")
    _rows(words, packed, scales, tuple(codes), params["rounding"] == "reference", out)
