"""MLX's affine codes: `q * scale + bias` in groups along the rows.

    scale = max((most - least) / (2**bits - 1), 1e-7), its sign chosen so that the end of greater
    magnitude (`edge`) is a whole number q0 of scales; then scale = edge / q0, bias = edge
    code = clamp(round((w - bias) / scale), 0, 2**bits - 1)

in float32; scales and biases are then rounded to the weight's dtype. Where q0 is 0 the bias is 0.
U32 `X.weight` holds a row's codes as a stream, U8 and wider widths alike. Source: MLX 0.32
`mlx/backend/cpu/quantized.cpp` `quantize`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels._narrow import stored
from anamnesis.kernels._native import variants
from anamnesis.kernels._pack import pack
from anamnesis.kernels.config import Config, Kept, mlx
from anamnesis.kernels.encoders import (
    Form,
    Part,
    Settings,
    Shape,
    Unfit,
    matrix_of,
    sibling_of_mlx,
)
from anamnesis.kernels.ends import Ends, between, wide
from anamnesis.kernels.readback import Blocks, Facts, Parts, lines
from anamnesis.kernels.types import Array, Outputs, Params

_affine = variants("encode_mlx:affine")


def form_affine(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Groups of `group` elements of a row."""
    bits, group = int(settings["bits"]), int(settings["group"])
    _, columns = matrix_of(shape, group)
    if columns * bits % 32:
        raise Unfit(f"its rows of {columns} codes of {bits} bits are no whole number of words")
    words, groups = columns * bits // 32, columns // group
    scales = (*shape[:-1], groups)
    parts = (
        Part("weight", name, "U32", (*shape[:-1], words), 1, words),
        Part("scale", sibling_of_mlx(name, "scales"), dtype, scales, 1, groups),
        Part("bias", sibling_of_mlx(name, "biases"), dtype, scales, 1, groups),
    )
    return Form(columns, parts)


def encode_affine(values: Array, params: Params, out: Outputs) -> None:
    """Scales and biases in float32, then the codes of what is left."""
    bits, group, dtype = int(params["bits"]), int(params["group"]), params["dtype"]
    scales, biases = np.empty((2, len(values) // group), np.float32)
    stream = out["weight"].view(np.uint8)
    codes = stream if bits in (4, 8) else np.empty(len(values), np.uint8)
    _affine(bits == 4)(values, group, (1 << bits) - 1, scales, biases, codes)
    if codes is not stream:
        pack(codes, bits, stream)
    out["scale"][:] = stored(scales, dtype)
    out["bias"][:] = stored(biases, dtype)


def blocks_affine(parts: Parts, facts: Facts) -> Blocks:
    """A row of codes, of scales and of biases each."""
    scalars: dict[str, Any] = {
        "bits": int(facts.settings["bits"]),
        "group_size": int(facts.settings["group"]),
        "scale_dtype": facts.dtype,
        "rounding": "exact",
        "order": "mlx",
    }
    roles = {"payload": "weight", "scales": "scale", "biases": "bias"}
    views = {role: lines(parts[part], facts.rows) for role, part in roles.items()}
    return Blocks(views, scalars, {}, facts.rows)


def ends_affine(parts: Parts, facts: Facts) -> Ends:
    """Half a step below the bias, and above the last code."""
    scales, biases = wide(parts["scale"]), wide(parts["bias"])
    last = np.float32((1 << int(facts.settings["bits"])) - 0.5)
    group = int(facts.settings["group"])
    return between(biases - scales * np.float32(0.5), biases + scales * last, facts.columns, group)


def config_affine(settings: Settings, kept: Kept, dtype: str) -> Config:
    """MLX's block."""
    return mlx("affine", int(settings["bits"]), int(settings["group"]), kept)
