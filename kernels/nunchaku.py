"""Nunchaku's SVDQuant: codes of four bits in tiles of a tensor core, smoothed, with low rank.

A tile is 128 rows and 64 columns. What a tensor holds, from its slowest index to its fastest:

| component | stored, of a unit of 128 rows | row or column |
|---|---|---|
| `codes` | words of 32 bits `[columns / 64, 8 a, 8 b, 4 c, 2 d, 2 e]` | row 16 a + 8 d + b |
| | whose nibble n, lowest first, is | column 32 e + 8 c + n of 64 |
| `scale`, INT4 | 16 bits `[columns / 64, 8 a, 4 b, 2 c, 2 d]` | row 16 a + 8 c + 2 b + d |
| `scale`, FP4 | E4M3 `[columns / 64, 8 a, 4 b, 4 c, 4 d]` | row 32 c + 8 b + a, group d of four |
| `channel`, `bias` | 16 bits, as one group of INT4's scales | |
| `smooth` | the same, 128 columns at a time | |
| `up` | 16 bits `[8, rank / 16, 8 a, 4 b, 2 c, 2 d, 2 e]` | row 8 c + a of 16 |
| | | rank 8 d + 2 b + e of 16 |
| `down` | the same of `[columns / 16, rank / 16, …]` | the rank is 8 c + a, the column 8 d + … |

    INT4            value = code * scale / smooth + up @ down
    FP4             value = e2m1 * (e4m3 * whole * channel) / smooth + up @ down
    its bias        value = bias, or bias + shift * sum over the columns of (code * scale / smooth)

`whole` (one number) and `channel` are 1 where they are not there. The steps, the order in which the
products of the low-rank part are added, and when a bias is moved are those of `svdquant.py`.
Sources: https://github.com/nunchaku-tech/nunchaku nunchaku/lora/flux/packer.py
(`NunchakuWeightPacker`), nunchaku/models/linear.py; https://github.com/mit-han-lab/deepcompressor
deepcompressor/backend/nunchaku/convert.py and utils.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.fp4 import E2M1
from anamnesis.kernels.fp8 import E4M3
from anamnesis.kernels.svdquant import NONE, SIGNED, Rows, put_biases, put_values
from anamnesis.kernels.types import Array, Bytes, Floats, Params, Views, Wholes

ROWS, COLUMNS, PACK = 128, 64, 16
_round = kernel("folded:round_values")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`smooth` float32 `[columns]`, `down` `[rank, columns]` and `whole`, where they are there.

    Raises ValueError for those that do not fit the layer's `in_features`.
    """
    prepared = dict(scalars)
    columns = scalars["in_features"]
    if "smooth" in wholes:
        prepared["smooth"] = _in_rows(numbers_of(wholes["smooth"]), 1).reshape(-1)
        if prepared["smooth"].size != columns:
            raise ValueError(f"{prepared['smooth'].size:,} factors for {columns:,} columns")
    if "down" in wholes:
        packs = _packs(numbers_of(wholes["down"]), columns)
        prepared["down"] = np.ascontiguousarray(packs.transpose(1, 2, 0, 3).reshape(-1, columns))
    if "whole" in wholes:
        prepared["whole"] = numbers_of(wholes["whole"]).reshape(1)
    return prepared


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of 128 rows; `out` is `[rows * in_features]`, or `[rows]` of a bias.

    `params`: `in_features`, `fp4`, a dtype for each of the windowed floats (`scale_dtype`, …), and
    what `prepare` made. Raises ValueError for arrays that do not fit one another.
    """
    rows = ROWS * (window.stop - window.start)
    bias = _floats(blocks, params, "bias") if "bias" in blocks else NONE
    if "bias" in blocks and "codes" not in blocks:
        if out.shape != (rows,) or bias.shape != (rows, 1):
            raise ValueError(f"out {out.shape}, bias {bias.shape} for {rows} rows")
        _round(bias.reshape(-1), out)
        return
    layer = _rows(blocks, params, rows)
    if "bias" in blocks:
        put_biases(layer, bias, out)
        return
    up, down = NONE, params.get("down", NONE)
    if "up" in blocks:
        packs = _packs(_numbers(blocks, params, "up"), rows)
        up = np.ascontiguousarray(packs.transpose(0, 2, 1, 3).reshape(rows, -1))
    put_values(layer, NONE, up, down, out)


def _rows(blocks: Views, params: Params, rows: int) -> Rows:
    columns = params["in_features"]
    raw = np.ascontiguousarray(blocks["codes"]).reshape(-1)
    if columns % ROWS or raw.size != rows * columns // 2:
        raise ValueError(f"codes: {raw.size} bytes for {rows} rows of {columns}")
    words = raw.view("<u4").reshape(-1, columns // COLUMNS, 8, 8, 4, 2, 2)
    # To tile, a, d, b (a row), then tile of columns, e, c (its words).
    codes = words.transpose(0, 2, 5, 3, 1, 6, 4).reshape(rows, columns // 8)
    codes = np.ascontiguousarray(codes).view(np.uint8)
    smooth = params.get("smooth", NONE.reshape(-1))
    if not params["fp4"]:
        scale = _floats(blocks, params, "scale", columns // COLUMNS)
        return Rows(codes, SIGNED, scale, smooth)
    bytes_ = np.ascontiguousarray(blocks["scale"]).reshape(-1, columns // COLUMNS, 8, 4, 4, 4)
    scale = E4M3.values[bytes_.transpose(0, 4, 3, 2, 1, 5).reshape(rows, -1)]
    scale = scale * params.get("whole", np.float32(1))
    if "channel" in blocks:
        scale = scale * _floats(blocks, params, "channel")
    return Rows(codes, E2M1, scale, smooth)


def _floats(blocks: Views, params: Params, part: str, each: int = 1) -> Array:
    """A number, or `each`, for each row, float32 `[rows, each]`."""
    return _in_rows(_numbers(blocks, params, part), each)


def _numbers(blocks: Views, params: Params, part: str) -> Array:
    raw: Bytes = np.ascontiguousarray(blocks[part]).reshape(1, -1)
    return read_scales(params[f"{part}_dtype"], raw).reshape(-1)


def _in_rows(numbers: Floats, each: int) -> Array:
    """Those of 16 bits in the order of an accumulator's lanes, as `[rows, each]`."""
    tiles = numbers.reshape(-1, each, 8, 4, 2, 2)
    return np.ascontiguousarray(tiles.transpose(0, 2, 4, 3, 5, 1).reshape(-1, each))


def _packs(numbers: Floats, lines: int) -> Array:
    """A low-rank part of `lines` rows or columns in packs of 16 by 16.

    `[lines / 16, rank / 16, 16, 16]`, the last two as the tensor core has them: of a row and a
    rank, or of a rank and a column.
    """
    packs = numbers.reshape(lines // PACK, -1, 8, 4, 2, 2, 2).transpose(0, 1, 4, 2, 5, 3, 6)
    return packs.reshape(lines // PACK, -1, PACK, PACK)
