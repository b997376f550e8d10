"""Nibbles in rows under scales `[groups, rows]`, smoothed, with a low-rank part: ComfyUI's INT4.

| component | stored | tiles of 128 rows |
|---|---|---|
| `codes` | I8 `[rows, columns / 2]`, 2k in the low half | `[tiles, groups, 32, 128]` |
| `scale` | `[groups, rows]` | `[tiles, groups, 128]` |
| `centre` | `[groups, rows]`, or missing for 0 | |
| `smooth` | `[columns]` | the same |
| `down` | `[columns, rank]` | the same |
| `up` | `[rows, rank]` | `[tiles, rank, 128]` |
| `bias` | `[rows]`; where it is there, it is what comes out | the same |

The 32 x 128 bytes of a group in a tile are 128 rows of 32 bytes. Codes are two's complement, or
plus 8. Floats are BF16, F16 or F32.

    awq_w4a16       value = code * scale + centre
    svdquant_w4a4   value = code * scale / smooth + up @ down.T
    its bias        value = bias + shift * sum over the columns of (code * scale / smooth)

Each step is float32, products of the low-rank part are added in the order of the rank; the sum of a
bias is made in double. The last formula holds where the input is moved by `shift` before it is
quantised: what is done to the input is part of the bias. Source: PyPI comfy-kitchen 0.2.40
backends/eager/svdquant.py (`scaled_mm_svdquant_w4a4`, `_tile_packed_weight_to_row_major`),
tensor/svdquant_w4a4.py (`svdquant_w4a4_grouped_linear`), tensor/awq_w4a16.py (`dequantize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Bytes

TILE_ROWS = 128
SHIFT = np.float32(0.171875)  # of an input after GELU, which is never below its negative
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_NONE = np.zeros((0, 0), np.float32)
_biases = kernel("svdquant:biases")
_values = kernel("svdquant:values")


def prepare(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> dict[str, Any]:
    """`smooth` float32 `[columns]`, and `down` float32 `[rank, columns]`, where they are there."""
    prepared = dict(scalars)
    if "smooth" in wholes:
        prepared["smooth"] = numbers_of(wholes["smooth"]).reshape(-1)
        if prepared["smooth"].size != scalars["in_features"]:
            raise ValueError(f"{prepared['smooth'].size:,} factors for its columns")
    if "down" in wholes:
        down = numbers_of(wholes["down"]).reshape(scalars["in_features"], -1)
        prepared["down"] = np.ascontiguousarray(down.T)
    return prepared


def decode(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Array
) -> None:
    """Rows, or tiles, `window`; `out` is `[rows * in_features]`, or `[rows]` of a bias.

    `params`: `in_features`, `groups`, `tiled`, `signed`, a dtype for each of the windowed floats
    (`scale_dtype` and so on), and what `prepare` made. Raises ValueError for arrays that do not
    fit one another.
    """
    codes, scale, smooth = _rows(blocks, params, window)
    if "bias" in blocks:
        bias = _by_row(blocks["bias"], params["bias_dtype"], 1, True)
        if out.shape != (codes.shape[0],) or bias.shape != (codes.shape[0], 1):
            raise ValueError(f"out {out.shape}, bias {bias.shape} for {codes.shape[0]} rows")
        _biases(codes, scale, smooth, bias, SHIFT, out)
        return
    rows, columns = codes.shape[0], params["in_features"]
    centre = up = down = _NONE
    if "centre" in blocks:
        centre = _by_row(blocks["centre"], params["centre_dtype"], len(scale[0]), False)
    if "up" in blocks:
        down = params["down"]
        up = _by_row(blocks["up"], params["up_dtype"], len(down), True, params["tiled"])
    if out.shape != (rows * columns,) or centre.shape not in ((0, 0), scale.shape):
        raise ValueError(f"out {out.shape} for {rows} rows of {columns}")
    if up.shape != ((rows, len(down)) if down.size else (0, 0)):
        raise ValueError(f"up {up.shape} for {rows} rows")
    line = np.empty(columns, np.float32)
    _values(codes, scale, centre, smooth, up, down, line, out)


def _rows(blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window) -> Any:
    """Codes plus 8 `[rows, columns / 2]`, scales `[rows, groups]` and smoothing of columns."""
    columns, groups = params["in_features"], params["groups"]
    units = window.stop - window.start
    rows = units * (TILE_ROWS if params["tiled"] else 1)
    codes = np.ascontiguousarray(blocks["codes"])
    if codes.size != rows * columns // 2 or columns % groups:
        raise ValueError(f"codes {codes.shape} for {rows} rows of {columns}")
    if params["tiled"]:
        # A tile is 128 rows of one group, one row after the other.
        codes = codes.reshape(units, groups, TILE_ROWS, -1).swapaxes(1, 2)
    # Two nibbles a byte: bit 3 of each turned makes two's complement offset by 8.
    codes = codes.reshape(rows, columns // 2) ^ np.uint8(0x88 if params["signed"] else 0)
    tiles = params["tiled"]
    scale = _by_row(blocks["scale"], params["scale_dtype"], groups, False, tiles)
    if scale.shape != (rows, groups):
        raise ValueError(f"scales {scale.shape} for {rows} rows of {groups} groups")
    return codes, scale, params.get("smooth", _NONE.reshape(-1))


def _by_row(raw: Bytes, dtype: str, each: int, whole: bool, tiled: bool = False) -> Any:
    """Numbers as float32 `[rows, each]`: stored so if `whole`, else `[each, rows]`, or in tiles."""
    if tiled:
        lines = np.ascontiguousarray(raw).reshape(-1, TILE_ROWS * _WIDTHS[dtype])
        numbers = read_scales(dtype, lines).reshape(-1, each, TILE_ROWS).swapaxes(1, 2)
        return np.ascontiguousarray(numbers.reshape(-1, each))
    if whole:
        return read_scales(dtype, np.ascontiguousarray(raw).reshape(-1, each * _WIDTHS[dtype]))
    return np.ascontiguousarray(read_scales(dtype, raw).T)
