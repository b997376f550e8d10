"""Signed nibbles in rows, or in pairs of rows, decoded as `ct.py`'s are.

| encoding | stored, of `[out, in]` | low and high half of a byte, two's complement |
|---|---|---|
| `int4-pairs` | U8 `[out / 2, in]` | rows 2r and 2r + 1 of a column |
| `int4-rows` | I8 `[out, in / 2]` | columns 2k and 2k + 1 of a row |

    value = code * scale          float32, rounded once to BF16

Sources:
nvidia-modelopt 0.47 torch/export/quant_utils.py (`pack_int4_in_uint8`), torch/quantization/qtensor/
int4_tensor.py; PyPI comfy-kitchen 0.2.40 backends/eager/svdquant.py (`_pack_int4_row_major`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, ct
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views, Wholes

_part = kernel("int4:part")
decode_rows = ct.decode_packed


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """As `ct.prepare`, of signed codes."""
    return ct.prepare(scalars, wholes, signed=True)


def decode_pairs(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of two rows; blocks and parameters as for `ct.decode_packed`, of 4 bits."""
    pairs = blocks["weight_packed"]
    if pairs.shape[1] % 2:
        raise ValueError(f"rows of {pairs.shape[1]} columns; allowed are even ones")
    rows = np.empty((2 * pairs.shape[0], pairs.shape[1] // 2), np.uint8)
    _part(pairs, rows)
    ct.decode_packed({**blocks, "weight_packed": rows}, params, window, out)
