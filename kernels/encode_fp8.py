"""FP8 weights: E4M3 codes under scales of blocks, rows, the tensor, or groups of 32.

| target | scales | what is stored |
|---|---|---|
| `fp8-block` deepseek | F32 `X_scale_inv`, a block | amax / 448; code of `w / scale` |
| `fp8-block` transformers | F32 `X_scale_inv`, a block | 1 / factor; of `w * factor`, 448 / amax |
| compressed-tensors | `X_scale`, the weight's dtype | amax / 448; of `w / scale`, rounded to it |
| `mxfp8` compressed-tensors | U8 `X_scale`, 2**(e - 127) | `_mx.exponents`; of `w / scale` |
| `mxfp8` mlx | U8 `scales`, U32 `weight` | `_mx.mlx_scales`; of `w / scale` |

Codes are clamped to +-448 and rounded to nearest, ties to even. Sources:
compressed-tensors 0.20 `quantization/utils/helpers.py`, `lifecycle/forward_helpers.py`;
transformers 5.23 `integrations/finegrained_fp8.py` `Fp8Quantize`; DeepSeek-V3
`inference/kernel.py`; MLX 0.32 `mlx/ops.cpp` `fp_quantize`, which on the CPU computes in the
array's dtype.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from anamnesis.kernels._extremes import magnitudes
from anamnesis.kernels._mx import ct_scales, mlx_scales, of_groups, table_of
from anamnesis.kernels._narrow import EPSILON, KINDS, narrow, stored
from anamnesis.kernels._native import variants
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.config import Config, Kept, compressed_tensors, mlx, quantization
from anamnesis.kernels.encoders import (
    Form,
    Part,
    Settings,
    Shape,
    Unfit,
    matrix_of,
    sibling_of_mlx,
)
from anamnesis.kernels.ends import Ends, around, by_exponents, wide
from anamnesis.kernels.loss import E4M3_END, Codes
from anamnesis.kernels.readback import Blocks, Facts, Parts, Stored, lines
from anamnesis.kernels.types import Array, Outputs, Params, Real

LARGEST = np.float32(448)
_END = np.float32(E4M3_END)
codes_of = variants("encode_fp8:codes_of")
_in_blocks, _micro = variants("encode_fp8:blocks"), variants("encode_fp8:micro")


def _grid(rows: int, columns: int, block: int) -> tuple[int, int]:
    return -(-rows // block), -(-columns // block)


def form_block(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Blocks of `block` rows and columns, those at the edges smaller."""
    block = int(settings["block"])
    if block < 1:
        raise Unfit(f"blocks of {block}")
    _, columns = matrix_of(shape)
    high, wide = _grid(shape[-2], columns, block)
    if settings["style"] == "transformers" and (shape[-2] % block or columns % block):
        raise Unfit(f"its {shape[-2]} x {columns} elements are no whole blocks of {block}")
    ours = settings["style"] == "compressed-tensors"
    if len(shape) > 2 and shape[-2] % block:
        raise Unfit(f"its stacked matrices of {shape[-2]} rows are no whole blocks of {block}")
    grid = (*shape[:-2], high, wide)
    kind, suffix = (dtype, "_scale") if ours else ("F32", "_scale_inv")
    parts = (
        Part("weight", name, "F8_E4M3", shape, 1, columns),
        Part("scale", name + suffix, kind, grid, block, wide),
    )
    return Form(columns, parts, multiple=min(block, shape[-2]))


def encode_block(values: Array, params: Params, out: Outputs) -> None:
    """Weight codes and one scale a block; blocks of zeros have the scale that the library gives."""
    columns, block, style = params["columns"], int(params["block"]), params["style"]
    lines, wide = _grid(len(values) // columns, columns, block)
    scales = np.empty((lines, wide), np.float32)
    dtype = params["dtype"] if style == "compressed-tensors" else "F32"
    run = _in_blocks(style, KINDS[dtype])
    run(values, columns, (block, block), EPSILON[dtype], scales, out["weight"])
    out["scale"][:] = stored(scales.reshape(-1), dtype)


def form_channel(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """A scale a row."""
    _, columns = matrix_of(shape)
    parts = (
        Part("weight", name, "F8_E4M3", shape, 1, columns),
        Part("scale", name + "_scale", dtype, (*shape[:-1], 1), 1, 1),
    )
    return Form(columns, parts)


def encode_channel(values: Array, params: Params, out: Outputs) -> None:
    """compressed-tensors' strategy `channel`."""
    columns, dtype = params["columns"], params["dtype"]
    scales = np.empty((len(values) // columns, 1), np.float32)
    run = _in_blocks("compressed-tensors", KINDS[dtype])
    run(values, columns, (1, columns), EPSILON[dtype], scales, out["weight"])
    out["scale"][:] = stored(scales.reshape(-1), dtype)


def form_tensor(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """One scale, of the whole tensor's greatest magnitude."""
    _, columns = matrix_of(shape)
    if len(shape) > 2:
        raise Unfit(f"it is a stack of matrices, {list(shape)}")
    parts = (
        Part("weight", name, "F8_E4M3", shape, 1, columns),
        Part("scale", name + "_scale", dtype, (1,)),
    )
    return Form(columns, parts, statistics=("extent",))


def encode_tensor(values: Array, params: Params, out: Outputs) -> None:
    """compressed-tensors' strategy `tensor`."""
    dtype = params["dtype"]
    scales = _whole_scale(params["least"], params["most"], dtype)
    out["scale"][:] = stored(scales, dtype)[: len(out["scale"])]
    codes_of(KINDS[dtype], True)(values, scales, len(values), out["weight"])


@lru_cache(maxsize=8)  # for one tensor after the other
def _whole_scale(least: Real, most: Real, dtype: str) -> Array:
    """compressed-tensors' symmetric scale, in the weight's dtype; its epsilon instead of 0."""
    greatest = np.array([max(abs(least), abs(most))], np.float32)
    with np.errstate(all="ignore"):
        scales = narrow(greatest / LARGEST, dtype)
    return np.where(scales == 0, np.float32(EPSILON[dtype]), scales)


def form_mxfp8(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Groups of 32 along a row, an exponent each."""
    _, columns = matrix_of(shape, 32)
    groups = columns // 32
    scales = (*shape[:-1], groups)
    if settings["style"] == "mlx":
        parts = (
            Part("weight", name, "U32", (*shape[:-1], columns // 4), 1, columns // 4),
            Part("scale", sibling_of_mlx(name, "scales"), "U8", scales, 1, groups),
        )
    else:
        parts = (
            Part("weight", name, "F8_E4M3", shape, 1, columns),
            Part("scale", name + "_scale", "U8", scales, 1, groups),
        )
    return Form(columns, parts)


def encode_mxfp8(values: Array, params: Params, out: Outputs) -> None:
    """Both libraries' rule for the exponent, and codes of the quotients."""
    dtype, mlx, codes = params["dtype"], params["style"] == "mlx", out["weight"].view(np.uint8)
    rule, reach = (mlx_scales, 448) if mlx else (ct_scales, 8)
    if values.dtype == np.uint16:
        _micro(KINDS[dtype], not mlx)(values, table_of(rule, reach, dtype), out["scale"], codes)
        return
    with np.errstate(all="ignore"):
        out["scale"][:], scales = of_groups(rule, magnitudes(values, 32), reach, dtype)
    codes_of(KINDS[dtype], not mlx)(values, scales, 32, codes)


def _blocks(parts: Parts, facts: Facts, high: int, width: int, dtype: str) -> Blocks:
    """A row of codes, under a grid of scales of blocks of `high` rows and `width` columns."""
    rows, columns = facts.rows, facts.columns
    grid = (1, -(-rows // high), -(-columns // width))
    scalars: dict[str, Any] = {"block": (high, width), "grid": grid, "rows": rows}
    scales = {"scale": Stored(dtype, parts["scale"])}
    return Blocks({"payload": lines(parts["weight"], rows)}, scalars, scales, rows)


def _held(parts: Parts, facts: Facts) -> str:
    return "F32" if parts["scale"].dtype == np.float32 else facts.dtype


def blocks_block(parts: Parts, facts: Facts) -> Blocks:
    """Blocks at the edges are smaller."""
    size = int(facts.settings["block"])
    high, width = min(size, facts.rows), min(size, facts.columns)
    return _blocks(parts, facts, high, width, _held(parts, facts))


def blocks_channel(parts: Parts, facts: Facts) -> Blocks:
    """A block a row."""
    return _blocks(parts, facts, 1, facts.columns, _held(parts, facts))


def blocks_tensor(parts: Parts, facts: Facts) -> Blocks:
    """One block."""
    return _blocks(parts, facts, facts.rows, facts.columns, _held(parts, facts))


def blocks_mxfp8(parts: Parts, facts: Facts) -> Blocks:
    """Blocks of 32 elements, under exponents."""
    return _blocks(parts, facts, 1, 32, "U8")


def ends_block(parts: Parts, facts: Facts) -> Ends:
    """A block's end in each of its rows."""
    size = int(facts.settings["block"])
    grid = (wide(parts["scale"]) * _END).reshape(-1, -(-facts.columns // size))
    return around(np.repeat(grid, size, axis=0)[: facts.rows], facts.columns, size)


def ends_channel(parts: Parts, facts: Facts) -> Ends:
    """An end a row."""
    return around(wide(parts["scale"]) * _END, facts.columns, facts.columns)


def ends_tensor(parts: Parts, facts: Facts) -> Ends:
    """One end for all rows."""
    whole = wide(parts["scale"]).reshape(-1)[:1] * _END
    return around(np.repeat(whole, facts.rows), facts.columns, facts.columns)


def ends_mxfp8(parts: Parts, facts: Facts) -> Ends:
    """By the exponents."""
    return by_exponents(parts["scale"], float(_END), facts.columns, 32)


def codes_block(parts: Parts, facts: Facts) -> Codes | None:
    """A block's scale in each of its rows."""
    size = int(facts.settings["block"])
    if size % 16 or facts.columns % size:
        return None
    grid = wide(parts["scale"]).reshape(-1, facts.columns // size)
    scales = np.repeat(grid, size, axis=0)[: facts.rows]
    return Codes("e4m3", parts["weight"].view(np.uint8), size, scales.reshape(-1))


def codes_channel(parts: Parts, facts: Facts) -> Codes | None:
    """A scale a row."""
    if facts.columns % 16:
        return None
    return Codes("e4m3", parts["weight"].view(np.uint8), facts.columns, wide(parts["scale"]))


def codes_tensor(parts: Parts, facts: Facts) -> Codes | None:
    """One scale for all rows."""
    size = facts.columns * facts.rows
    if size % 16:
        return None
    return Codes("e4m3", parts["weight"].view(np.uint8), size, wide(parts["scale"])[:1])


def codes_mxfp8(parts: Parts, facts: Facts) -> Codes | None:
    """By the exponents."""
    scales = to_float32("F8_E8M0", parts["scale"])
    return Codes("e4m3", parts["weight"].view(np.uint8), 32, scales)


def config_block(settings: Settings, kept: Kept, dtype: str) -> Config:
    """compressed-tensors', or that of DeepSeek, which transformers writes too."""
    size = [settings["block"]] * 2
    if settings["style"] == "compressed-tensors":
        return compressed_tensors("float-quantized", kept, strategy="block", block_structure=size)
    return quantization(
        quant_method="fp8",
        fmt="e4m3",
        activation_scheme="dynamic",
        weight_block_size=size,
        modules_to_not_convert=list(kept),
    )


def config_channel(settings: Settings, kept: Kept, dtype: str) -> Config:
    """compressed-tensors' strategy `channel`."""
    inputs = "float" if settings["activations"] == "dynamic" else ""
    return compressed_tensors("float-quantized", kept, inputs, strategy="channel")


def config_tensor(settings: Settings, kept: Kept, dtype: str) -> Config:
    """compressed-tensors' strategy `tensor`."""
    inputs = "float" if settings["activations"] == "dynamic" else ""
    return compressed_tensors("float-quantized", kept, inputs, strategy="tensor")


def config_mxfp8(settings: Settings, kept: Kept, dtype: str) -> Config:
    """By the library that loads it."""
    if settings["style"] == "mlx":
        return mlx("mxfp8", 8, 32, kept)
    kind = "torch.uint8"
    return compressed_tensors(
        "mxfp8-quantized", kept, strategy="group", group_size=32, scale_dtype=kind, zp_dtype=kind
    )
