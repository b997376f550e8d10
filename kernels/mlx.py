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

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import spread, widen
from anamnesis.kernels._jit import jit, variants
from anamnesis.kernels._round import through_bf16, through_f16
from anamnesis.kernels._vector import load32, store, to_f32

STEP = 32  # codes in a vector; group sizes are multiples of it
_CODES = 4096  # unpacked at a time, at least a group
_GROUPS = 128  # whose scales are made float32 at a time


def prepare(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> dict[str, Any]:
    """The kernel's numbers.

    `scalars`: `bits`, `group_size`, `scale_dtype`, `rounding`, and `order` (mlx or metal). Raises
    ValueError for sizes that the kernel does not have.
    """
    dtype, bits, size = scalars["scale_dtype"], scalars["bits"], scalars["group_size"]
    if size <= 0 or size % STEP or bits not in (1, 2, 3, 4, 5, 6, 8):
        raise ValueError(f"{bits} bits in groups of {size}")
    narrow = dtype if scalars["rounding"] == "reference" else "F32"
    return {
        "group_bytes": size * bits // 8,
        "raw": np.dtype("<u4" if dtype == "F32" else "<u2"),
        "half": dtype == "F16",
        "narrow": narrow,
        "twice": scalars["order"] == "mlx",
    }


def decode_affine(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Output rows `window`, from uint8 `[rows, bytes]` of `payload`, `scales` and `biases`.

    `params`: `bits`, `group_size`, and what `prepare` made. Raises ValueError for arrays that do
    not fit one another.
    """
    data = blocks["payload"].reshape(-1)
    scales = blocks["scales"].reshape(-1).view(params["raw"])
    biases = blocks["biases"].reshape(-1).view(params["raw"])
    groups, size = scales.shape[0], params["group_size"]
    if biases.shape != scales.shape or data.shape[0] != groups * params["group_bytes"]:
        raise ValueError(
            f"payload: {data.shape[0]} bytes for scales {scales.shape}, biases {biases.shape} of "
            f"groups of {size} codes of {params['bits']} bits"
        )
    if out.shape != (groups * size,):
        raise ValueError(f"out: {out.shape} for {groups} groups of {size}")
    # Always read-only, so that a kernel is compiled once an output dtype.
    for array in (data, scales, biases):
        array.setflags(write=False)
    affine = _affine(params["bits"], params["narrow"])
    affine(data, scales, biases, params["half"], size, params["twice"], out)


@variants
def _affine(bits: int, narrow: str) -> Any:
    """`(data, scales, biases, half, size, twice, out)`: codes of groups to values."""
    to_bytes, multiply = spread(bits), _SCALE[narrow]

    def values_of(
        data: Any, scales: Any, biases: Any, half: Any, size: Any, twice: Any, out: Any
    ) -> None:
        many = max(1, min(_CODES // size, _GROUPS))
        codes = np.empty(many * size, np.uint8)
        scale, bias = np.empty(many, np.float32), np.empty(many, np.float32)
        for first in range(0, scales.shape[0], many):
            count = min(many, scales.shape[0] - first)
            widen(scales[first : first + count], half, scale)
            widen(biases[first : first + count], half, bias)
            at = first * size
            stream = data[at * bits // 8 : (at + count * size) * bits // 8]
            if bits != 8:
                to_bytes(stream, codes)
                stream = codes
            multiply(stream, size, scale, bias, count, twice, out, at)

    return values_of


@jit
def _scale(
    codes: Any, size: Any, scales: Any, biases: Any, groups: Any, twice: Any, out: Any, to: Any
) -> None:
    for group in range(groups):
        scale, bias = scales[group], biases[group]
        for at in range(group * size, (group + 1) * size, STEP):
            store(out, to + at, to_f32(load32(codes, at)) * scale + bias)


@jit
def _scale_bf16(
    codes: Any, size: Any, scales: Any, biases: Any, groups: Any, twice: Any, out: Any, to: Any
) -> None:
    for group in range(groups):
        scale, bias = scales[group], biases[group]
        if twice:
            for at in range(group * size, (group + 1) * size, STEP):
                product = through_bf16(to_f32(load32(codes, at)) * scale)
                store(out, to + at, through_bf16(product + bias))
        else:
            for at in range(group * size, (group + 1) * size, STEP):
                store(out, to + at, through_bf16(to_f32(load32(codes, at)) * scale + bias))


@jit
def _scale_f16(
    codes: Any, size: Any, scales: Any, biases: Any, groups: Any, twice: Any, out: Any, to: Any
) -> None:
    for group in range(groups):
        scale, bias = scales[group], biases[group]
        if twice:
            for at in range(group * size, (group + 1) * size, STEP):
                product = through_f16(to_f32(load32(codes, at)) * scale)
                store(out, to + at, through_f16(product + bias))
        else:
            for at in range(group * size, (group + 1) * size, STEP):
                store(out, to + at, through_f16(to_f32(load32(codes, at)) * scale + bias))


_SCALE = {"F32": _scale, "BF16": _scale_bf16, "F16": _scale_f16}
