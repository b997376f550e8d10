"""torchao's INT4 in the tiles of PyTorch's `_weight_int4pack_mm`, for tensor cores of 16 inputs.

| part | stored, of `[out, in]` | content |
|---|---|---|
| `payload` | I32 `[out / 8, in / (16 k), 32, k / 2]` | eight codes a word, with 8 added |
| `scale_and_zero` | BF16 `[groups, out, 2]` | a scale, and a number that is added |

    value = (code - 8) * scale + zero        product and sum each float32, rounded once to BF16

Outputs are filled up to a multiple of 8 and inputs, by torchao, to one of 1024. A step is 16 k
inputs of T outputs, 4 T lanes of k / 2 words each: word i of lane t holds inputs 32 i to 32 i + 31
of the step, and of these

| made on | T | output of the step | inputs of bits 0-3, 4-7, 8-11, 12-15 | of bits 16-19, … |
|---|---|---|---|---|
| NVIDIA | 8 | t div 4 | 2 q, 2 q + 8, 2 q + 16, 2 q + 24, with q = t mod 4 | each one more |
| AMD | 16 | t mod 16 | 4 q, 4 q + 2, 4 q + 16, 4 q + 18, with q = t div 16 | each one more |

Steps follow one another along the inputs, then down the outputs. Shapes are those of NVIDIA's order
in both. Sources: https://github.com/pytorch/pytorch aten/src/ATen/native/cuda/int4mm.cu
(`matrix_to_m16n8k16_Bint4_layout`); torchao 0.18 quantization/quantize_/workflows/int4/
int4_tile_packed_to_4d_tensor.py, quantization/quant_primitives.py (`_dequantize_affine_tinygemm`).
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Bytes, Params, Views

NVIDIA, AMD = 8, 16  # outputs of a step
_int4 = kernel("torchao:int4")
_untile = kernel("torchao_tiles:untile")


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of `tile_rows` outputs, uint8 `[units, bytes]`, and numbers `[groups, bytes]`.

    `params`: `tile_rows`, `words` of a lane, `in_features`, and the `group_size`. Raises ValueError
    for arrays that do not fit one another.
    """
    columns, size, tile = params["in_features"], params["group_size"], params["tile_rows"]
    units = window.stop - window.start
    codes = untile(blocks["payload"], units, tile, params["words"])
    pairs = np.ascontiguousarray(blocks["scale_and_zero"]).view("<u2")
    groups, filled = pairs.shape[0], 2 * codes.shape[1]
    rows, rest = divmod(out.shape[0], max(1, columns))
    if rest or not (units - 1) * tile < rows <= units * tile or filled < columns:
        raise ValueError(f"out {out.shape} for units {window} of {tile} x {columns}")
    if pairs.shape[1] != 2 * units * tile or groups * size != filled or size % 2:
        raise ValueError(f"scale_and_zero {pairs.shape}: {window} of {filled} in groups of {size}")
    pairs = pairs.reshape(groups, -1, 2)[:, :rows]
    scales, zeros = (
        read_scales("BF16", np.ascontiguousarray(pairs[..., part]).view(np.uint8))
        for part in (0, 1)
    )
    whole = out if filled == columns else np.empty(rows * filled, out.dtype)
    _int4(codes[:rows].reshape(-1), size, scales, zeros, whole)
    if filled != columns:
        # Inputs that only fill a row up.
        out.reshape(rows, columns)[:] = whole.reshape(rows, filled)[:, :columns]


def untile(payload: Bytes, units: int, tile: int, words: int) -> Bytes:
    """Codes in pairs, uint8 `[units * tile, in / 2]`, the even one in the low half.

    They are in two's complement, 8 less than what is stored. Raises ValueError for bytes that are
    no whole steps.
    """
    data = np.ascontiguousarray(payload).reshape(-1)
    step = 16 * tile * words  # bytes
    steps = data.shape[0] // max(1, units * step)
    if tile not in (NVIDIA, AMD) or words not in (1, 2, 4) or steps * units * step != data.shape[0]:
        raise ValueError(f"payload: {data.shape[0]} bytes for {units} units of {tile} outputs")
    codes = np.empty((units * tile, 4 * steps * words), np.uint32)
    _untile(data.view(np.uint32), steps, words, tile == AMD, codes)
    return codes.view(np.uint8)
