"""SINQ's square tiles (`tiling_mode: 2D`): a scale and a zero for each row of a tile, and for each
column of it another scale.

A matrix is bands of `tile` rows, a band is `across` tiles of `tile` columns. Codes lie row after
row of the matrix; number `i` of tile `t` of the band, counted from the band's first, is

| component | what number `t * tile + i` is of |
|---|---|
| `scale`, `zero` | row `i` of tile `t`: the group `i * across + t` of the band |
| `scale2` | column `i` of tile `t`: the columns `t * tile + i` |

    value = ((code - zero) * scale) * scale2          float32, each step rounded

Of what a code and its zero and scale make is the encoding's of the same groups without tiles:
`params["of_groups"]`. Source: PyPI sinq 0.2.0 dual_shift.py (`tiled_quant_square`), quantizer.py
(`Quantizer.dequantize`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Params, Views, Wholes

_WORDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_round = kernel("folded:round_values")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["of_groups"]` needs."""
    inner = preparer(scalars["of_groups"])
    return {} if inner is None else inner(scalars, wholes)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups `window`, of whole bands; blocks of the inner encoding, and `scale2` beside them.

    `params`: `tile`, `across`, `scale2_dtype`. Raises ValueError for arrays that do not fit.
    """
    tile, across = params["tile"], params["across"]
    count = window.stop - window.start
    if count % (tile * across) or window.start % (tile * across):
        raise ValueError(f"groups {window} are no bands of {across} tiles of {tile} rows")
    parts = dict(blocks)
    for side in ("scale", "zero"):
        stored = np.ascontiguousarray(blocks[side]).reshape(-1, across, tile, blocks[side].shape[1])
        parts[side] = stored.swapaxes(1, 2).reshape(count, -1)
    numbers = np.empty(out.shape, np.float32)
    decoder(params["of_groups"])(parts, params, window, numbers)
    dtype = params["scale2_dtype"]
    raw = np.ascontiguousarray(parts["scale2"]).reshape(-1).view(_WORDS[dtype])
    columns = to_float32(dtype, raw).reshape(-1, 1, across * tile)
    with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
        bands = numbers.reshape(len(columns), tile, across * tile)
        bands *= columns
    _round(numbers, out)
