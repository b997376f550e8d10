"""compressed-tensors' 2:4 sparse weights: two of every four numbers of a row, and which.

| component | stored, of `[rows, columns]` |
|---|---|
| the values | `[rows, columns / 2]`: codes of FP8 or INT8, or BF16, F16, F32; in order |
| `bitmask` | U8 `[rows, ceil(columns / 8)]`, the first column in the lowest bit; 1: stored |

What is not stored is 0. Rows are filled up, and the decoder of the values goes on. Source:
compressed-tensors 0.9.4 compressors/sparse_compressors/sparse_24_bitmask.py
(`sparse24_bitmask_decompress`), utils/helpers.py (`unpack_bitmasks`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import PayloadError, Window, decoder, preparer
from anamnesis.kernels.types import Array, Params, Views, Wholes


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["values"]` needs."""
    inner = preparer(scalars["values"])
    return {} if inner is None else inner(scalars, wholes)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window`; blocks and parameters are the inner encoding's, and uint8 of `bitmask`.

    `params`: `columns`, `role` of the values and `value_bytes` of one. Raises
    PayloadError for a mask that keeps another number than two of four, ValueError for arrays that
    do not fit.
    """
    rows, columns = window.stop - window.start, params["columns"]
    kind, role = np.dtype(f"<u{params['value_bytes']}"), params["role"]
    values = np.ascontiguousarray(blocks[role]).reshape(-1).view(kind)
    mask = np.ascontiguousarray(blocks["bitmask"])
    if mask.shape[0] != rows or values.size * 2 != rows * columns:
        raise ValueError(f"bitmask {mask.shape}, {values.size} values for {rows} of {columns}")
    # Bit i of byte j is column 8 j + i.
    kept = np.unpackbits(mask, axis=1, count=columns, bitorder="little").view(bool)
    if (kept.reshape(-1, 4).sum(1) != 2).any():
        raise PayloadError("bitmask: keeps more or fewer than two of four")
    filled = np.zeros((rows, columns), kind)
    filled[kept] = values
    decoder(params["values"])({**blocks, role: filled.view(np.uint8)}, params, window, out)
