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

from dataclasses import dataclass
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Bytes, Floats, Params, Views, Wholes

TILE_ROWS = 128
SHIFT = np.float32(0.171875)  # of an input after GELU, which is never below its negative
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
NONE = np.zeros((0, 0), np.float32)  # a part that is not there
_OFFSET = np.arange(-8, 8, dtype=np.float32)
SIGNED = np.roll(_OFFSET, 8)  # two's complement
_biases = kernel("svdquant:biases")
_values = kernel("svdquant:values")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
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


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows, or tiles, `window`; `out` is `[rows * in_features]`, or `[rows]` of a bias.

    `params`: `in_features`, `groups`, `tiled`, `signed`, a dtype for each of the windowed floats
    (`scale_dtype` and so on), and what `prepare` made. Raises ValueError for arrays that do not
    fit one another.
    """
    rows = _rows(blocks, params, window)
    if "bias" in blocks:
        put_biases(rows, _by_row(blocks["bias"], params["bias_dtype"], 1, True), out)
        return
    centre = up = down = NONE
    if "centre" in blocks:
        centre = _by_row(blocks["centre"], params["centre_dtype"], rows.scale.shape[1], False)
    if "up" in blocks:
        down = params["down"]
        up = _by_row(blocks["up"], params["up_dtype"], len(down), True, params["tiled"])
    put_values(rows, centre, up, down, out)


@dataclass(frozen=True, slots=True)
class Rows:
    """Codes of four bits, uint8 `[rows, columns / 2]` with column 2k in the low half.

    `grid` has the number of each of the 16 codes, `scale` is float32 `[rows, groups]`, `smooth`
    `[columns]`, or empty.
    """

    codes: Bytes
    grid: Floats
    scale: Floats
    smooth: Floats

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that do not fit one another."""
        rows, columns = len(self.codes), 2 * self.codes.shape[1]
        groups = self.scale.shape[1]
        fits = self.scale.shape == (rows, groups) and self.grid.shape == (16,)
        fits = fits and (columns % groups == 0 if groups else not columns)
        if not fits or self.smooth.shape not in ((0,), (columns,)):
            shapes = f"scales {self.scale.shape}, smooth {self.smooth.shape}"
            raise ValueError(f"codes {self.codes.shape}, {shapes}")


def put_values(rows: Rows, centre: Floats, up: Floats, down: Floats, out: Array) -> None:
    """`grid[code] * scale / smooth + centre + up @ down`, where these are; raises ValueError.

    `centre` is float32 `[rows, groups]`, `up` `[rows, rank]`, `down` `[rank, columns]`.
    """
    count, columns = len(rows.codes), 2 * rows.codes.shape[1]
    if out.shape != (count * columns,) or centre.shape not in ((0, 0), rows.scale.shape):
        raise ValueError(f"out {out.shape}, centre {centre.shape} for {count} rows of {columns}")
    if up.shape != ((count, len(down)) if down.size else (0, 0)):
        raise ValueError(f"up {up.shape} for {count} rows")
    if down.size and down.shape[1] != columns:
        raise ValueError(f"down {down.shape} for {columns} columns")
    line = np.empty(columns, np.float32)
    _values(rows.codes, rows.grid, rows.scale, centre, rows.smooth, (up, down), line, out)


def put_biases(rows: Rows, bias: Floats, out: Array) -> None:
    """`bias`, float32 `[rows, 1]`, of layers that see their input without `SHIFT`."""
    count = len(rows.codes)
    if out.shape != (count,) or bias.shape != (count, 1) or not rows.smooth.size:
        raise ValueError(f"out {out.shape}, bias {bias.shape} for {count} rows")
    _biases(rows.codes, rows.grid, rows.scale, rows.smooth, bias, SHIFT, out)


def _rows(blocks: Views, params: Params, window: Window) -> Rows:
    columns, groups = params["in_features"], params["groups"]
    units = window.stop - window.start
    rows = units * (TILE_ROWS if params["tiled"] else 1)
    codes = np.ascontiguousarray(blocks["codes"])
    if codes.size != rows * columns // 2 or columns % groups:
        raise ValueError(f"codes {codes.shape} for {rows} rows of {columns}")
    if params["tiled"]:
        # A tile is 128 rows of one group, one row after the other.
        codes = codes.reshape(units, groups, TILE_ROWS, -1).swapaxes(1, 2)
    codes = np.ascontiguousarray(codes.reshape(rows, columns // 2))
    scale = _by_row(blocks["scale"], params["scale_dtype"], groups, False, params["tiled"])
    grid = SIGNED if params["signed"] else _OFFSET
    return Rows(codes, grid, scale, params.get("smooth", NONE.reshape(-1)))


def _by_row(raw: Bytes, dtype: str, each: int, whole: bool, tiled: bool = False) -> Array:
    """Numbers as float32 `[rows, each]`: stored so if `whole`, else `[each, rows]`, or in tiles."""
    if tiled:
        lines = np.ascontiguousarray(raw).reshape(-1, TILE_ROWS * _WIDTHS[dtype])
        numbers = read_scales(dtype, lines).reshape(-1, each, TILE_ROWS).swapaxes(1, 2)
        return np.ascontiguousarray(numbers.reshape(-1, each))
    if whole:
        return read_scales(dtype, np.ascontiguousarray(raw).reshape(-1, each * _WIDTHS[dtype]))
    return np.ascontiguousarray(read_scales(dtype, raw).T)
