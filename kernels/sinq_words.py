"""SINQ's codes of 5 and 6 bits: several in a word of 32 bits, else as HQQ's of eight.

The `R` rows of groups are packed by sixths or fifths, the first in the highest bits that are used:

| bits | `W_q` | row `k * lines + r` is |
|---|---|---|
| 5 | I32 `[ceil(R / 6), group]` | bits `25 - 5k` and up of line `r` |
| 6 | I32 `[ceil(R / 5), group]` | bits `24 - 6k` and up |

What a code stands for is the encoding's of the same codes as bytes: `params["of_bytes"]`.
Source: PyPI sinq 0.2.0 bitpack.py (`pack_5bit_32`, `pack_6bit_32`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels._planar import lines_of
from anamnesis.kernels.types import Array, Params, Views, Wholes


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["of_bytes"]` needs."""
    inner = preparer(scalars["of_bytes"])
    return {} if inner is None else inner(scalars, wholes)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups `window`; blocks and parameters of the inner encoding, and `word_bits`, `lines`.

    Raises ValueError for arrays that do not fit.
    """
    bits, lines, size = params["word_bits"], params["lines"], params["group_size"]
    data, base = lines_of(blocks["W_q"], window, lines)
    if data.size % (4 * size) or window.stop > lines * (32 // bits):
        raise ValueError(f"W_q: {data.size} bytes for groups {window} of {size} codes")
    words = data.view("<u4").reshape(-1, size)
    groups = np.arange(window.start, window.stop)
    shifts = bits * (32 // bits - 1 - groups // lines)
    codes = words[(groups % lines - base) % lines] >> shifts.astype(np.uint32)[:, None]
    bytes_ = (codes & np.uint32((1 << bits) - 1)).astype(np.uint8)
    decoder(params["of_bytes"])({**blocks, "W_q": bytes_}, params, window, out)
