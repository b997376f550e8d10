"""NVFP4 packed along the rows of a matrix: ModelOpt's experts of Llama-4 and gpt-oss.

| stored, of `[in, out]` | one byte is |
|---|---|
| codes, uint8 `[in / 2, out]` | rows 2r (low half) and 2r + 1 (high half) of a column |
| scales, E4M3 `[in / 16, out]` | the scale of 16 rows of a column |

    value = e2m1 * (e4m3 * global)      float32, rounded once to BF16

A unit is 16 rows of the output: 8 rows of bytes and one of scales. Turned, a column of it is a
block as `fp4.py` has them. Source: nvidia-modelopt 0.47 torch/export/unified_export_hf.py
(`_export_quantized_weight`) and quant_utils.py (`maybe_transpose_expert_weight_dimensions`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, fp4
from anamnesis.kernels.transposed import copy_transposed
from anamnesis.kernels.types import Array, Params, Views, Wholes

_BLOCK, _BYTES = fp4.NV_BLOCK, fp4.NV_BLOCK // 2


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """As `fp4.prepare_nv`, whose rows are blocks here, and the `columns` of a matrix."""
    return {**fp4.prepare_nv(scalars, wholes), "columns": scalars["columns"]}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window`: `payload` uint8 `[units, 8 * columns]`, `scale` uint8 `[units, columns]`.

    Raises ValueError for shapes that do not fit.
    """
    payload, scale, columns = blocks["payload"], blocks["scale"], params["columns"]
    units = scale.shape[0]
    fits = payload.shape == (units, _BYTES * columns) and scale.shape == (units, columns)
    if not fits or out.shape != (_BLOCK * units * columns,):
        raise ValueError(f"payload {payload.shape}, scale {scale.shape}, out {out.shape}")
    lines = payload.reshape(units, _BYTES, columns).swapaxes(1, 2).reshape(-1, _BYTES)
    turned = np.empty(out.size, out.dtype)
    inner = {"payload": lines, "scale": scale.reshape(-1, 1)}
    rows = Window(window.start * columns, window.stop * columns)
    fp4.decode_nv(inner, params, rows, turned)
    copy_transposed(
        turned.reshape(units, columns, _BLOCK).swapaxes(1, 2), out.reshape(units, _BLOCK, columns)
    )
