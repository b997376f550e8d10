"""INT8 codes whose scale is stored as its product with that of the inputs: ModelSlim's static W8A8.

    scale = float32(deq_scale) / float32(input_scale)
    value = float32(code) * scale, rounded once to BF16

Of models of FP16 the lower 32 bits of an I64 are the float32's. Sources:
https://github.com/vllm-project/vllm-ascend/pull/16728, which recovers the scales so;
https://gitee.com/ascend/msit msmodelslim `deqscale_process`, `deqscale2int64`, which make them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import PayloadError, Window
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.dense import decode_f32
from anamnesis.kernels.types import Array, Component, Params, Views, Wholes


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The scale of each row as float32 `[rows]`.

    `wholes` are `deq_scale`, a number a row (floats, or I64), and `input_scale`, one number. Raises
    PayloadError for I64 that are no float32.
    """
    product, inputs = numbers(wholes["deq_scale"]), numbers(wholes["input_scale"])
    if inputs.size != 1 or product.size != scalars["rows"]:
        raise ValueError(f"{product.size:,} scales of {scalars['rows']:,} rows")
    with np.errstate(all="ignore"):
        scale = product / inputs[0]
    nan = np.isnan(scale)
    # The upper 16 bits of a NaN are what BF16 keeps; bit 22 makes it quiet.
    scale[nan] = (scale[nan].view(np.uint32) & 0xFFFF0000 | 0x00400000).view(np.float32)
    return {"scale": scale}


def numbers(component: Component) -> Array:
    """Scales as float32, I64 those whose bits its lower halves are; raises PayloadError."""
    if component.dtype != "I64":
        return to_float32(component.dtype, component.array.reshape(-1))
    words = np.ascontiguousarray(component.array.reshape(-1)).view(np.int64)
    low = words.astype(np.uint64).astype(np.uint32)
    high = words >> 32
    if ((high != 0) & (high != low.view(np.int32) >> 31)).any():
        raise PayloadError("deq_scale: I64 whose upper halves are no signs of float32")
    return low.view(np.float32)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window` of a matrix, of `payload` uint8 `[rows, columns]`, under `scale` a row."""
    payload, scale = blocks["payload"], params["scale"][window.start : window.stop, None]
    if payload.shape[0] != len(scale) or out.shape != (payload.size,):
        raise ValueError(f"out: {out.shape} for rows {window} of {payload.shape[1]} columns")
    with np.errstate(all="ignore"):
        values = payload.view(np.int8) * scale
    decode_f32({"payload": values.reshape(-1).view(np.uint8)}, params, window, out)
