"""MLX affine: codes of 1 to 8 bits with a scale and a bias for each group along the inputs.

| tensor | stored | content |
|---|---|---|
| `weight` | U32 `[out, in * b / 32]` | a stream of `b` bits a row, lowest bit first, no padding |
| `scales` | BF16, F16 or F32 `[out, in / g]` | one a group of `g` inputs; may be negative |
| `biases` | the same | |

    value = code * scale + bias         product and sum each float32, rounded once to BF16

`g` is a multiple of 32, so that a group is whole words and groups follow one another without regard
to rows. `reference` rounds product and sum to the dtype of the scales each, as MLX does, or only
the sum, as transformers does of Metal's.
Sources: https://github.com/ml-explore/mlx mlx/ops.cpp (`quantize`, `dequantize`),
mlx/backend/metal/kernels/quantized.h (`affine_dequantize`); transformers
integrations/metal_quantization.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine
from anamnesis.kernels._codes import bits_of
from anamnesis.kernels._narrow import KINDS
from anamnesis.kernels._native import variants
from anamnesis.kernels.types import Array, Params, Views, Wholes

STEP = 32  # codes in a vector; group sizes are multiples of it
_CODES = 4096  # unpacked at a time, at least a group
_affine = variants("mlx:affine")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`affine`, whose zeros are the biases.

    `scalars`: `bits`, `group_size`, `scale_dtype`, `rounding`, and `order` (mlx or metal). Raises
    ValueError for sizes that the kernel does not have.
    """
    dtype, bits, size = scalars["scale_dtype"], scalars["bits"], scalars["group_size"]
    if size <= 0 or size % STEP or bits not in (1, 2, 3, 4, 5, 6, 8):
        raise ValueError(f"{bits} bits in groups of {size}")
    twice = dtype if scalars["rounding"] == "reference" else "F32"
    once = twice if scalars["order"] == "mlx" else "F32"
    return {"affine": Affine(bits, dtype, zero="added", once=once, twice=twice)}


def decode_affine(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[rows, bytes]` of `payload`, `scales` and `biases`.

    `params`: `group_size`, and what `prepare` made. Raises ValueError for arrays that do
    not fit one another.
    """
    data = blocks["payload"].reshape(-1)
    affine: Affine = params["affine"]
    scales, half = bits_of(affine.scale_dtype, blocks["scales"].reshape(-1))
    biases, _ = bits_of(affine.scale_dtype, blocks["biases"].reshape(-1))
    groups, size = scales.shape[0], params["group_size"]
    if biases.shape != scales.shape or data.shape[0] * 8 != groups * size * affine.bits:
        raise ValueError(
            f"payload: {data.shape[0]} bytes for scales {scales.shape}, biases {biases.shape} of "
            f"groups of {size} codes of {affine.bits} bits"
        )
    if out.shape != (groups * size,):
        raise ValueError(f"out: {out.shape} for {groups} groups of {size}")
    codes = np.empty(max(_CODES, size), np.uint8)
    decode = _affine(affine.bits, KINDS[affine.once], affine.last(out))
    decode(data, scales, biases, half, size, codes, out)
