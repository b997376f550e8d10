"""FP8 codes that are divided by a scale: GPTQModel's, whose `weight_scale_inv` is an inverse.

    value = float32(code) / float32(scale), rounded once to BF16

DeepSeek's scales of the same name are multiplied with (`fp8.py`, which has the codes and the grid).
Source: GPTQModel 7.7.0 nn_modules/qlinear/fp8.py (`quantize_fp8_weight`, `dequantize_weight`).
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels.dense import decode_f32
from anamnesis.kernels.fp8 import E4M3, E4M3FNUZ, E5M2, E5M2FNUZ
from anamnesis.kernels.fp8 import prepare as prepare  # the same grid of scales
from anamnesis.kernels.types import Array, Params, Views

_CODES = {"F8_E4M3": E4M3, "F8_E4M3FNUZ": E4M3FNUZ, "F8_E5M2": E5M2, "F8_E5M2FNUZ": E5M2FNUZ}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window` of the stacked matrices, of `payload` uint8 `[rows, columns]`.

    `params`: `codes` (the stored dtype), `rows` of one matrix, `block` `(bm, bn)`, and `scale` as
    `prepare` made it.
    """
    payload, scale = blocks["payload"], params["scale"]
    (bm, bn), per = params["block"], params["rows"]
    rows = np.arange(window.start, window.stop)
    if payload.shape[0] != len(rows) or out.shape != (payload.size,):
        raise ValueError(f"out: {out.shape} for rows {window} of {payload.shape[1]} columns")
    matrices = np.minimum(rows // per, scale.shape[0] - 1)
    lines = np.minimum(rows % per // bm, scale.shape[1] - 1)
    divisors = np.repeat(scale[matrices, lines], bn, axis=1)[:, : payload.shape[1]]
    numbers = _CODES[params["codes"]].values[payload]
    with np.errstate(all="ignore"):
        np.divide(numbers, divisors, out=numbers)
    decode_f32({"payload": numbers.reshape(-1).view(np.uint8)}, params, window, out)
