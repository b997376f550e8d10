"""SpQR: codes of 3 bits in tiles of 16 by 16 whose scales are codes too, and outliers beside them.

| tensor | stored, of `[out, in]` |
|---|---|
| `dense_weights` | I64 `[out * in / 16]`: a word a row of a tile, tiles of 16 rows side by side |
| `row_offsets` | I32 `[out + 1]`: where a row's outliers begin; or `[out / 16 + 1]`, a tile row's |
| `col_vals` | I32 `[outliers]`: the column in the lower half, a binary16 in the upper |
| `in_perm` | I32 `[in / 2]`, as U16 `[in]`: the input that a stored column is of |

A word, from its lowest bit: 3 bits of the row's scale, 3 of its zero point, 16 codes of 3 bits, and
from bit 54 on a part of four binary16 numbers of the tile, which rows `2 i` and `2 i + 1` have as
byte `i`: the scale of scales, the scale of zeros, the zero of scales, the zero of zeros. Bytes of a
tile's rows are joined by "or".

    scale = (scale code - zero of scales) * scale of scales
    zero  = (zero code - zero of zeros) * scale of zeros
    value = (code - zero) * scale + outlier

each step float32. Offsets of tile rows count outliers of 16 rows in turn, filled up with zeros.
Under `reference` each step but the sum is rounded to binary16, and the sum once more, as SpQR's
code computes. What comes out has the columns in the order of the inputs. Source:
https://github.com/Vahe1994/SpQR inference_lib/src/spqr_quant/inference.py (`QuantizedLinear`),
inference_kernels/spqr_cuda.cpp (`dequantize_compressed`), spqr_cuda_kernel.cu, common.cuh.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import PayloadError, Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

TILE = 16
_WORD = 8  # bytes
_rows = kernel("spqr:rows")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`order`, int32 `[in]`, `offsets`, int32, and `outliers`, uint32: as stored.

    `scalars`: `by_tile`, whether offsets are those of tile rows. Raises PayloadError for what is no
    permutation, offsets that do not lead to the end, and columns that are not there.
    """
    order = wholes["in_perm"].array.reshape(-1).view(np.uint16).astype(np.int32)
    inputs = len(order)
    if not np.array_equal(np.sort(order), np.arange(inputs)):
        raise PayloadError(f"in_perm is no permutation of {inputs:,} inputs")
    offsets = wholes["row_offsets"].array.reshape(-1)
    outliers = wholes["col_vals"].array.reshape(-1).view(np.uint32)
    step = TILE if scalars["by_tile"] else 1
    ends = offsets[0], offsets[-1]
    if ends != (0, len(outliers)) or (np.diff(offsets) < 0).any() or (offsets % step).any():
        raise PayloadError(
            f"row_offsets are not from 0 up to {len(outliers):,} outliers, in steps of {step}"
        )
    # A column is the lower half of a word.
    if (outliers & np.uint32(0xFFFF) >= inputs).any():
        raise PayloadError(f"col_vals: an outlier beyond {inputs:,} columns")
    return {"order": order, "offsets": offsets, "outliers": outliers}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows of tiles `window`, of uint8 `dense_weights` `[units, bytes]`.

    `params`: `by_tile`, `rounding`, and what `prepare` made. Raises ValueError for arrays that do
    not fit.
    """
    raw, order, offsets = blocks["dense_weights"], params["order"], params["offsets"]
    units, inputs = window.stop - window.start, len(order)
    last = window.stop * (1 if params["by_tile"] else TILE)
    if (
        raw.shape != (units, inputs * _WORD)
        or last >= len(offsets)
        or out.shape != (units * TILE * inputs,)
    ):
        raise ValueError(f"dense_weights {raw.shape}, out {out.shape}: {window}")
    settings = window.start, params["by_tile"], params["rounding"] == "reference"
    second = np.empty((inputs // TILE, 4), np.float32)
    room = np.empty(inputs, np.float32)
    words = np.ascontiguousarray(raw).view("<u8")
    _rows(words, offsets, params["outliers"], order, second, room, settings, out)


def scales(dense: Bytes) -> Array:
    """The scales of rows in tiles, float32 `[units, tiles, 16]`, of uint8 `[units, bytes]`."""
    words = np.ascontiguousarray(dense).view("<u8").reshape(len(dense), -1, TILE)
    # Byte i of a tile's four numbers stands from bit 54 on in its rows 2 i and 2 i + 1.
    parts = words >> np.uint64(54) << np.arange(TILE, dtype=np.uint64) // 2 * np.uint64(8)
    halves = np.bitwise_or.reduce(parts, 2)[..., None].view("<f2").astype(np.float32)
    codes = (words & np.uint64(7)).astype(np.float32)
    with np.errstate(all="ignore"):  # what a file says
        return (codes - halves[..., 2:3]) * halves[..., :1]
