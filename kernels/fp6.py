"""MXFP6 of compressed-tensors and Quark: codes of six bits, an E8M0 exponent for each 32 of a row.

Four codes are 24 bits, the first in the lowest, so that a row is a stream of codes and a block 24
bytes of it. An E2M3 code is a sign, two bits of exponent (offset 1) and three of mantissa: a
multiple of 1/8 up to 7.5; an E3M2 code, which Quark has too, three (offset 3) and two, up to 28.
Sources: OCP Microscaling Formats specification 1.0, section 5.3.2;
https://github.com/vllm-project/compressed-tensors compressors/mxfp6/helpers.py; amd-quark 0.13
torch/utils/pack.py (`Pack_fp6`).

    value = code * 2**(e - 127), in float32, rounded once to BF16
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp8 import E4M3, E5M2
from anamnesis.kernels.types import Array, Params, Views

BLOCK, BLOCK_BYTES = 32, 24
_E8M0 = to_float32("F8_E8M0", np.arange(256, dtype=np.uint8))
# An E2M3 code is an E4M3 code of the same bits, the sign moved up, but for the exponents' offset.
_FACTOR = np.float32(2.0**6)
_VALUES = np.concatenate([E4M3.values[:32], E4M3.values[128:160]]) * _FACTOR
# So is an E3M2 code to E5M2.
_FACTOR_E3M2 = np.float32(2.0**12)
_VALUES_E3M2 = np.concatenate([E5M2.values[:32], E5M2.values[128:160]]) * _FACTOR_E3M2
_mx = kernel("fp6:mx")


def decode_mx(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """MXFP6 rows: `payload` uint8 `[rows, columns * 3 / 4]`, `scale` uint8 `[rows, columns / 32]`.

    With `params["e3m2"]` codes are E3M2. Raises ValueError for shapes that do not fit one another.
    """
    payload, scale = blocks["payload"], blocks["scale"]
    rows, nbytes = payload.shape
    count = nbytes // BLOCK_BYTES
    fits = scale.shape == (rows, count) and out.shape == (rows * count * BLOCK,)
    if nbytes % BLOCK_BYTES or not fits:
        raise ValueError(
            f"payload {payload.shape}, scale {scale.shape}, out {out.shape} do not fit blocks of"
            f" {BLOCK}"
        )
    data, scale = payload.reshape(-1), scale.reshape(-1)
    if params.get("e3m2"):
        values, like, factor = _VALUES_E3M2, E5M2, _FACTOR_E3M2
    else:
        values, like, factor = _VALUES, E4M3, _FACTOR
    _mx(data, scale, _E8M0, values, like[1:5], factor * np.float32(like.factor), out)
