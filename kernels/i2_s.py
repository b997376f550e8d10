"""bitnet.cpp's I2_S: ternary weights, four to a byte, with one scale for the tensor.

    payload   u8 `[blocks, 32]`; bits 7 and 6 of byte i are element i of 128, bits 5 and 4 element
              32 + i, then 64 + i and 96 + i
    scale     float32
    value     (-1, 0, 1, 0)[code] * scale          float32, rounded once to BF16

Source: https://github.com/microsoft/BitNet (16da220) utils/convert-hf-to-gguf-bitnet.py and
utils/convert-bitnet-embedding-to-gguf.py (`quantize_to_i2_s`), src/ggml-bitnet-mad.cpp
(`quantize_i2_s`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Params, Views, Wholes

_LEVELS = np.tile(np.array([-1, 0, 1, 0], np.float32), 4)
_BLOCK_BYTES, _BLOCK_ELEMS = 32, 128
_i2_s = kernel("gguf_bits:i2_s")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`numbers`, float32 `[16]`: what each code stands for; of `wholes`, `scale`."""
    with np.errstate(all="ignore"):
        return {"numbers": _LEVELS * numbers_of(wholes["scale"])}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Blocks `window`, from uint8 `[blocks, 32]` of `payload`.

    Raises ValueError for arrays that do not fit one another.
    """
    data, count = blocks["payload"], window.stop - window.start
    if data.shape != (count, _BLOCK_BYTES) or out.shape != (count * _BLOCK_ELEMS,):
        raise ValueError(f"payload {data.shape}, out {out.shape}: {count} blocks")
    _i2_s(data.reshape(-1), params["numbers"], out)
