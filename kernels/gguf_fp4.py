"""GGUF's four-bit floats: MXFP4 and NVFP4.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_mxfp4`, `block_nvfp4`,
`kvalues_mxfp4`), ggml/src/ggml-quants.c (`dequantize_row_mxfp4`, `_nvfp4`) and
ggml/src/ggml-impl.h (`ggml_e8m0_to_fp32_half`, `ggml_ue4m3_to_fp32`).

| type | elements, bytes | layout |
|---|---|---|
| MXFP4 | 32, 17 | e u8; qs u8[16]: 16 elements in the low halves, then 16 in the high ones |
| NVFP4 | 64, 36 | d u8[4]; qs u8[4][8]: per run of 16, 8 in the low halves, then 8 in the high |

A code is E2M1: a sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6. ggml keeps the doubled integers and
halved scales. It reads the exponent byte 255 as 2**128, not NaN, and of the unsigned E4M3 scales it
ignores the top bit and takes 0x7F for 0; so does this module.

The tensor `NAME.scale` beside an NVFP4 tensor multiplies what the blocks give
(ggml-org/llama.cpp, src/llama-graph.cpp, `build_lora_mm`: the scale is applied to the product).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import ENCODINGS, Window
from anamnesis.kernels._blocks import decoder_of, flat_blocks
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Params, Views, Wholes

_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_DOUBLED[8] = 0.0  # ggml's integer table has no negative zero
_ONE = np.ones(1, np.float32)
_ROW = ENCODINGS["gguf-nvfp4"]
_nvfp4 = kernel("gguf_fp4:nvfp4")


def _products(scales: Array) -> Array:
    """Every code under each of the 256 scales: flat, 16 entries a scale byte."""
    with np.errstate(over="ignore"):
        return np.outer(scales.astype(np.float32), _DOUBLED).astype(np.float32).reshape(-1)


def _half_e8m0() -> Array:
    return np.ldexp(np.float32(1), np.arange(256) - 128)


def _half_ue4m3() -> Array:
    exponent, mantissa = np.divmod(np.arange(256) & 0x7F, 8)
    scales = np.ldexp(np.where(exponent > 0, 8 + mantissa, mantissa), np.maximum(exponent, 1) - 11)
    return np.where(np.arange(256) == 0x7F, 0, scales)


_MXFP4 = _products(_half_e8m0())
_NVFP4 = _products(_half_ue4m3())
decode_mxfp4 = decoder_of("gguf-mxfp4", _MXFP4)


def decode_nvfp4(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """NVFP4: `e2m1 * d`, an exact product, times `scale` where the tensor has one.

    `params["scale"]` is float32, one for the tensor or one for each `params["blocks_per_scale"]`
    blocks; `window.start` is the first block.
    """
    scale, data = params.get("scale", _ONE), flat_blocks(blocks["payload"], _ROW, out)
    count, at = data.shape[0] // 36, 0
    per_scale = params["blocks_per_scale"] if scale.size > 1 else window.start + count + 1
    while at < count:
        expert = (window.start + at) // per_scale
        end = min((expert + 1) * per_scale - window.start, count)
        _nvfp4(data[36 * at : 36 * end], _NVFP4, scale[expert], out[64 * at : 64 * end])
        at = end


def prepare_nvfp4(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The arguments of `decode_nvfp4`: `scale` as float32 `[scales]`, where the tensor has it."""
    prepared = dict(scalars)
    if "scale" in wholes:
        stored = wholes["scale"]
        prepared["scale"] = to_float32(stored.dtype, stored.array).reshape(-1)
    return prepared
