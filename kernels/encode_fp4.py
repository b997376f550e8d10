"""FP4 weights: E2M1 codes, two a byte, the first in the low half, under scales of short groups.

| target | group | scale of a group | of the tensor |
|---|---|---|---|
| `nvfp4` compressed-tensors | 16 | E4M3 of `amax / 6 * global`, 2**-3 for 0 | 448 * 6 / amax |
| `nvfp4` modelopt | 16 | E4M3 of `amax / (6 * global)`, of 1 for 0 | amax / (448 * 6) |
| `nvfp4` mlx | 16 | E4M3 of `amax / 6`, U8 `scales` | none |
| `mxfp4` compressed-tensors | 32 | E8M0, `_mx.exponents` | |
| `mxfp4` gpt-oss | 32 | E8M0, `_mx.ceilings` | |
| `mxfp4` mlx | 32 | E8M0, `_mx.mlx_scales` | |

compressed-tensors and ModelOpt round a tie to the even code and keep the sign of what becomes 0;
MLX takes the lower magnitude, and +0; ModelOpt's MXFP4 the lower one, and -0 for every 0 and NaN.

gpt-oss stores stacked experts as transformers reads them: of a parameter `X`, `[experts, in, out]`,
`X_blocks` `[experts, out, in / 32, 16]` and `X_scales` `[experts, out, in / 32]`. What makes such
folders is ModelOpt's examples/gpt-oss/convert_oai_mxfp4_weight_only.py, with `MXFP4QTensor`.

Sources: compressed-tensors 0.20
`quantization/utils/helpers.py` and `fp4_utils.py`, `compressors/nvfp4/helpers.py`; ModelOpt 0.47
`torch/quantization/qtensor/nvfp4_tensor.py` and `mxfp4_tensor.py`; MLX 0.32 `mlx/ops.cpp`
`fp_quantize` on the CPU.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

from anamnesis.kernels._extremes import magnitudes
from anamnesis.kernels._mx import ceilings, ct_scales, mlx_scales, of_groups, table_of
from anamnesis.kernels._narrow import KINDS, narrow
from anamnesis.kernels._native import variants
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.config import Config, Kept, compressed_tensors, mlx, quantization
from anamnesis.kernels.encode_fp8 import LARGEST
from anamnesis.kernels.encoders import (
    Form,
    Part,
    Settings,
    Shape,
    Unfit,
    matrix_of,
    sibling_of_mlx,
)
from anamnesis.kernels.ends import E2M1_END, Ends, by_exponents
from anamnesis.kernels.loss import Codes
from anamnesis.kernels.readback import Blocks, Facts, Parts, Stored, lines
from anamnesis.kernels.types import Array, Bytes, Floats, Outputs, Params, Real

EXPERTS = ("gate_up_proj", "down_proj")  # of gpt-oss, which are stored transposed
_SIX = np.float32(6)
_EVEN, _MLX, _MODELOPT = range(3)  # rules of `codes_of`
_TINY = {"F32": 2.0**-126, "BF16": 2.0**-126, "F16": 2.0**-14}  # torch.finfo(dtype).tiny
_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
# The numbers of codes, and where a scale's reach ends, without and with a negative zero.
_TABLES = tuple(
    np.concatenate([_MAGNITUDES, zero, -_MAGNITUDES[1:], [-E2M1_END, E2M1_END]], dtype=np.float32)
    for zero in ([0.0], [-0.0])
)
codes_of = variants("encode_fp4:codes_of")
_micro, _nv = variants("encode_fp4:micro"), variants("encode_fp4:nv")
# The rule of exponents, what it is given, and that of codes.
_MX_RULES = {
    "compressed-tensors": (ct_scales, 4, _EVEN),
    "gpt-oss": (ceilings, 6, _MODELOPT),
    "mlx": (mlx_scales, 6, _MLX),
}


def e4m3_values(codes: Bytes) -> Array:
    """The float32 numbers of non-negative E4M3 codes; NaN for 0x7F."""
    return _e4m3_numbers()[codes]


@cache
def _e4m3_numbers() -> Array:
    codes = np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 3).astype(np.int32), (codes & 7).astype(np.float32)
    # Bits 0-2 the mantissa, 3-6 the exponent with a bias of 7.
    normal = np.ldexp(np.float32(1) + mantissa / np.float32(8), exponent - 7)
    values = np.where(exponent == 0, mantissa * np.float32(2.0**-9), normal)
    return np.where(codes & 0x7F == 0x7F, np.float32(np.nan), values).astype(np.float32)


def form_mxfp4(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Groups of 32 along a row; of gpt-oss' experts, along the inputs, which are the rows."""
    if settings["style"] == "gpt-oss":
        return _form_experts(name, shape)
    _, columns = matrix_of(shape, 32)
    parts = _parts(name, shape, str(settings["style"]), 32, "U8")
    return Form(columns, parts)


def _form_experts(name: str, shape: Shape) -> Form:
    if len(shape) != 3 or name.rpartition(".")[2] not in EXPERTS:
        raise Unfit(f"gpt-oss' layout is for stacked experts, {' and '.join(EXPERTS)}")
    matrices, inputs, outputs = shape
    matrix_of((matrices * outputs, inputs), 32)
    groups = inputs // 32
    parts = (
        Part("weight", name + "_blocks", "U8", (matrices, outputs, groups, 16), 1, 16 * groups),
        Part("scale", name + "_scales", "U8", (matrices, outputs, groups), 1, groups),
    )
    return Form(inputs, parts, transposed=True)


def encode_mxfp4(values: Array, params: Params, out: Outputs) -> None:
    """Each library's rule for the exponent, and its codes of the quotients."""
    dtype, codes = params["dtype"], out["weight"].view(np.uint8)
    by, reach, rule = _MX_RULES[params["style"]]
    kind = KINDS["F32" if rule == _MODELOPT else dtype]
    if values.dtype == np.uint16:
        _micro(kind, rule)(values, table_of(by, reach, dtype), out["scale"], codes)
        return
    with np.errstate(all="ignore"):
        out["scale"][:], scales = of_groups(by, magnitudes(values, 32), reach, dtype)
    codes_of(kind, rule)(values, scales, 32, codes)


def form_nvfp4(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Groups of 16 along a row, and, but for MLX, a scale for all of them."""
    _, columns = matrix_of(shape, 16)
    if settings["style"] == "mlx":
        return Form(columns, _parts(name, shape, "mlx", 16, "U8"))
    if len(shape) > 2:
        raise Unfit(f"it is a stack of matrices, {list(shape)}")
    parts = _parts(name, shape, str(settings["style"]), 16, "F8_E4M3")
    if settings["style"] == "modelopt":
        whole = Part("global", name + "_scale_2", "F32", ())
    else:
        whole = Part("global", name + "_global_scale", "F32", (1,))
    return Form(columns, (*parts, whole), statistics=("extent",))


def encode_nvfp4(values: Array, params: Params, out: Outputs) -> None:
    """Scales first, in the library's order of dtypes, then the codes."""
    style, dtype, whole = params["style"], params["dtype"], np.float32(1)
    with np.errstate(all="ignore"):
        if style == "compressed-tensors":
            whole = global_scale(params["least"], params["most"], dtype)
        elif style == "modelopt":
            # The greatest codes of both formats: E2M1's 6 times E4M3's 448.
            whole = _greatest(params) / np.float32(6 * 448)
    codes, scales = out["weight"].view(np.uint8), out["scale"].view(np.uint8)
    _nv(style, KINDS[dtype])(values, whole, scales, codes)
    if "global" in out:
        out["global"][:] = whole


def _greatest(params: Params) -> np.float32:
    return np.float32(max(abs(params["least"]), abs(params["most"])))


@lru_cache(maxsize=8)  # for one tensor after the other
def global_scale(least: Real, most: Real, dtype: str) -> np.float32:
    """compressed-tensors' `generate_gparam`: float32, computed in the weight's dtype."""
    greatest = np.float32(max(abs(least), abs(most)))
    greatest = np.maximum(greatest, np.float32(_TINY[dtype]))
    # torch divides a number by a tensor as the tensor's reciprocal times the number.
    inverse = narrow(np.array([np.float32(1) / greatest], np.float32), dtype)
    scale = narrow(inverse * (LARGEST * _SIX), dtype)[0]
    return scale if np.isfinite(scale) else np.float32(1)


def _parts(name: str, shape: Shape, style: str, group: int, kind: str) -> tuple[Part, ...]:
    columns = shape[-1]
    scales = (*shape[:-1], columns // group)
    if style == "mlx":
        return (
            Part("weight", name, "U32", (*shape[:-1], columns // 8), 1, columns // 8),
            Part("scale", sibling_of_mlx(name, "scales"), "U8", scales, 1, columns // group),
        )
    # ModelOpt keeps the weight's own name.
    packed = name if style == "modelopt" else name + "_packed"
    return (
        Part("weight", packed, "U8", (*shape[:-1], columns // 2), 1, columns // 2),
        Part("scale", name + "_scale", kind, scales, 1, columns // group),
    )


def blocks_mxfp4(parts: Parts, facts: Facts) -> Blocks:
    """A row of codes and of scales each; a tensor's scale divides or multiplies."""
    rows, style = facts.rows, facts.settings["style"]
    views = {"payload": lines(parts["weight"], rows), "scale": lines(parts["scale"], rows)}
    scalars: dict[str, Any] = {
        "rows": rows,
        "global": "divide" if style == "compressed-tensors" else "multiply",
        "minus_zero": style != "modelopt",
    }
    wholes = {"global": Stored("F32", parts["global"])} if "global" in parts else {}
    return Blocks(views, scalars, wholes, rows)


blocks_nvfp4 = blocks_mxfp4


def ends_mxfp4(parts: Parts, facts: Facts) -> Ends:
    """By the exponents."""
    return by_exponents(parts["scale"], float(E2M1_END), facts.columns, 32)


def ends_nvfp4(parts: Parts, facts: Facts) -> Ends:
    """By the scales, under that of the tensor."""
    high, codes = np.abs(_scales_nv(parts, facts) * E2M1_END), parts["scale"].view(np.uint8)
    return Ends(facts.columns, 16, (-high)[codes].reshape(-1), high[codes].reshape(-1))


def _scales_nv(parts: Parts, facts: Facts) -> Floats:
    """The numbers of E4M3 scales under that of the tensor, by their codes."""
    scales = e4m3_values(np.arange(256, dtype=np.uint8) & np.uint8(0x7F))
    if "global" not in parts:
        return scales
    whole = parts["global"].reshape(-1)[0]
    divide = facts.settings["style"] == "compressed-tensors"
    with np.errstate(all="ignore"):
        return scales / whole if divide else scales * whole


def codes_mxfp4(parts: Parts, facts: Facts) -> Codes:
    """Pairs under exponents."""
    return _codes(parts, facts, 32, to_float32("F8_E8M0", parts["scale"]))


def codes_nvfp4(parts: Parts, facts: Facts) -> Codes:
    """Pairs under E4M3 scales, and that of the tensor."""
    scales = _scales_nv(parts, facts)[parts["scale"].view(np.uint8)]
    return _codes(parts, facts, 16, scales)


def _codes(parts: Parts, facts: Facts, size: int, scales: Floats) -> Codes:
    table = _TABLES[facts.settings["style"] != "modelopt"]
    return Codes("pairs", parts["weight"].view(np.uint8), size, scales.reshape(-1), table)


def config_mxfp4(settings: Settings, kept: Kept, dtype: str) -> Config:
    """By the library that loads it."""
    if settings["style"] == "gpt-oss":
        return quantization(quant_method="mxfp4", modules_to_not_convert=list(kept))
    if settings["style"] == "mlx":
        return mlx("mxfp4", 4, 32, kept)
    return compressed_tensors(
        "mxfp4-pack-quantized",
        kept,
        num_bits=4,
        strategy="group",
        group_size=32,
        scale_dtype="torch.uint8",
        zp_dtype="torch.uint8",
    )


def config_nvfp4(settings: Settings, kept: Kept, dtype: str) -> Config:
    """By the library that loads it."""
    if settings["style"] == "modelopt":
        return quantization(
            quant_method="modelopt",
            quant_algo="W4A16_NVFP4",  # loaders of NVFP4 take input scales for given
            group_size=16,
            kv_cache_quant_algo=None,
            exclude_modules=list(kept),
            ignore=list(kept),
        )
    if settings["style"] == "mlx":
        return mlx("nvfp4", 4, 16, kept)
    return compressed_tensors(
        "nvfp4-pack-quantized",
        kept,
        num_bits=4,
        strategy="tensor_group",
        group_size=16,
        scale_dtype="torch.float8_e4m3fn",
        zp_dtype="torch.float8_e4m3fn",
    )
