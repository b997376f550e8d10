"""Four-bit floats in blocks along a row: MXFP4 and NVFP4, as safetensors files hold them.

| encoding | elements a block | scale of a block |
|---|---|---|
| MXFP4 | 32 | E8M0, one byte: 2**(e - 127), 255 is NaN |
| NVFP4 | 16 (ModelOpt: or 32) | E4M3, one byte, and a float32 for the whole matrix |
| NVFP4 of AutoRound's `nvfp4_v2` | 16 | E5M3, one byte without a sign |

A code is E2M1: a sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6. A byte holds element 2k in its low
half and 2k + 1 in its high half; codes and scales are tensors of their own. AutoRound's MXINT4 is
MXFP4 with other numbers: a sign and 0 to 7 quarters (auto-round 0.16.1
experimental/qmodules/mxint4_utils.py).

    MXFP4: value = e2m1 * 2**(e - 127)
    NVFP4: value = e2m1 * (e4m3 * global), or e2m1 * (e4m3 / global)

Every step rounds to float32, the result once to BF16. Under `reference` a `narrow` NVFP4 scale is
rounded to BF16 before it is multiplied with. E5M3 has the exponents of E5M2, 0xFF is NaN, and
nothing is infinite (auto-round 0.16.1 data_type/nvfp.py, `e5m3_to_float_tensor`).

Sources: OCP Microscaling Formats specification 1.0,
sections 5.3.3, 5.4.1 and 6.3; https://github.com/vllm-project/compressed-tensors
compressors/nvfp4 and mxfp4, quantization/lifecycle/forward_helpers.py (`_dequantize`);
nvidia-modelopt torch/quantization/qtensor/nvfp4_tensor.py (`dequantize`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._narrow import narrow
from anamnesis.kernels._native import kernel
from anamnesis.kernels._sizes import SPLIT_WORDS
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp8 import E4M3
from anamnesis.kernels.types import Array, Params, Views, Wholes

MX_BLOCK, NV_BLOCK = 32, 16
TILE = SPLIT_WORDS  # lines that are turned together: a cache line of 16-bit numbers
_PAD = 16  # bytes; rows of a tile a power of two apart would share cache sets
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
E2M1[8] = -0.0
_WITHOUT_MINUS_ZERO = E2M1 + np.float32(0)
_QUARTERS = np.array([*range(8), -0.0, *range(-1, -8, -1)], np.float32) / np.float32(4)
_E8M0 = to_float32("F8_E8M0", np.arange(256, dtype=np.uint8))
_ONE = np.ones(1, np.float32)
_mx = kernel("fp4:mx")
_mx_columns_16 = kernel("fp4:mx_columns_16")
_mx_columns_32 = kernel("fp4:mx_columns_32")
_nv = kernel("fp4:nv")


def _e5m3() -> Array:
    exponent, mantissa = np.divmod(np.arange(256), 8)
    # Five bits of exponent over three of mantissa, no sign.
    lead = np.where(exponent > 0, 8, 0)
    values = np.ldexp(lead + mantissa, np.maximum(exponent, 1) - 18).astype(np.float32)
    values[0xFF] = np.nan
    return values


_SCALE_CODES = {"e4m3": E4M3.values, "e5m3": _e5m3()}


def scale_codes(params: Params) -> Array:
    """What NVFP4's 256 scale bytes stand for, float32: E4M3, or as `params["scale_code"]` says."""
    return _SCALE_CODES[params.get("scale_code", "e4m3")]


def decode_mx(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """MXFP4 rows: `payload` is uint8 `[rows, columns / 2]`, `scale` uint8 `[rows, columns / 32]`.

    With `params["quarters"]` MXINT4's. Raises ValueError for shapes that do not fit one another, as
    `decode_nv` does.
    """
    codes, scale = _checked(blocks, MX_BLOCK, out)
    _mx(codes, scale, _E8M0, _QUARTERS if params.get("quarters") else E2M1, out)


def decode_mx_columns(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """MXFP4 lines to columns: a unit is 32 rows of the output, which are a block of every line.

    `payload` is uint8 `[columns, units * 16]`, `scale` uint8 `[columns, units]`, the last axis of
    both contiguous; `out` is `units * 32` rows of `columns`. Raises ValueError as above.
    """
    codes, scale = blocks["payload"], blocks["scale"]
    lines, units = scale.shape
    fits = codes.shape == (lines, 16 * units) and out.shape == (units * MX_BLOCK * lines,)
    if (
        not fits
        or window.stop - window.start != units
        or {codes.strides[1], scale.strides[1]} > {1}
    ):
        raise ValueError(f"payload {codes.shape}, scale {scale.shape}, out {out.shape}: {window}")

    rows = np.empty((TILE, MX_BLOCK + _PAD // out.itemsize), out.dtype)
    tile, words = rows.reshape(-1), rows.view(np.uint32)
    if out.dtype == np.float32:
        columns = out.view(np.uint32).reshape(units * MX_BLOCK, lines)
        _mx_columns_32(codes, scale, _E8M0, E2M1, tile, words, out, columns)
    else:
        turned = np.empty((MX_BLOCK // 2, TILE), np.uint32)
        _mx_columns_16(codes, scale, _E8M0, E2M1, tile, words, turned, out)


def prepare_nv(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The arguments of `decode_nv`, from the tensor's parameters and its whole components.

    `wholes["global"]`, absent for 1, is one number or one for each matrix of `scalars["rows"]`
    rows; `scalars["global"]` says `multiply` or `divide` by it, after division by
    `scalars["global_unit"]` if there is one (MLX). With `scalars["narrow"]` and
    `rounding: reference` the scales are rounded to BF16. Where `scalars["minus_zero"]` is false,
    code 8 is 0 (ModelOpt's table). `scalars["scale_code"]` is "e5m3" where scales are no E4M3.
    One matrix has its 256 scales made here.
    """
    stored = wholes.get("global")
    factors = _ONE if stored is None else to_float32(stored.dtype, stored.array).reshape(-1)
    if "global_unit" in scalars:
        factors = factors / np.float32(scalars["global_unit"])
    how = scalars.get("global", "multiply")
    if how not in ("multiply", "divide"):
        raise ValueError(f"global: {how!r}; allowed is multiply or divide")
    if factors.size > 1 and scalars.get("rows", 0) < 1:
        raise ValueError(f"{factors.size} global scales, and no rows of a matrix")
    narrowed = bool(scalars.get("narrow")) and scalars.get("rounding") == "reference"
    prepared = {
        "e2m1": E2M1 if scalars.get("minus_zero", True) else _WITHOUT_MINUS_ZERO,
        "factors": factors,
        "divide": how == "divide",
        "narrowed_scales": narrowed,
        "codes": scale_codes(scalars),
    }
    if factors.size == 1:
        prepared["scales"] = _scales(factors[0], prepared)
    return prepared


def _scales(factor: np.float32, params: Params) -> Array:
    """What each of the 256 scale bytes stands for in one matrix; NaNs are quiet and plain."""
    with np.errstate(all="ignore"):
        codes = params["codes"]
        scales = codes / factor if params["divide"] else codes * factor
        if params["narrowed_scales"]:
            scales = narrow(scales, "BF16")
    scales[np.isnan(scales)] = np.nan
    return scales


def decode_nv(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """NVFP4 rows: `payload` is uint8 `[rows, columns / 2]`, `scale` uint8 `[rows, columns / 16]`.

    `params` are `prepare_nv`'s, the `rows` of a matrix where there are several, and `block_elems`,
    where a scale is for a multiple of 16 elements.
    """
    repeats = params.get("block_elems", NV_BLOCK) // NV_BLOCK
    if repeats > 1:
        blocks = {**blocks, "scale": np.repeat(blocks["scale"], repeats, axis=1)}
    codes, scale = _checked(blocks, NV_BLOCK, out)
    scales = params.get("scales")
    if scales is not None:
        _nv(codes, scale, scales, params["e2m1"], out)
        return
    factors, per, rows = params["factors"], params["rows"], window.stop - window.start
    if blocks["payload"].shape[0] != rows or window.stop > factors.size * per:
        raise ValueError(f"{factors.size} global scales of {per} rows each, for rows {window}")
    each, row = scale.shape[0] // max(1, rows), window.start
    while row < window.stop:
        end = min((row // per + 1) * per, window.stop)
        first, last = (row - window.start) * each, (end - window.start) * each
        part = codes[first * 8 : last * 8], scale[first:last]
        numbers = _scales(factors[row // per], params)
        _nv(*part, numbers, params["e2m1"], out[first * 16 : last * 16])
        row = end


def _checked(blocks: Views, size: int, out: Array) -> tuple[Any, Any]:
    """Codes and scale bytes, flat."""
    payload, scale = blocks["payload"], blocks["scale"]
    rows, half = payload.shape
    if (
        2 * half % size
        or scale.shape != (rows, 2 * half // size)
        or out.shape != (rows * 2 * half,)
    ):
        raise ValueError(
            f"payload {payload.shape}, scale {scale.shape}, out {out.shape} do not fit blocks of"
            f" {size}"
        )
    codes, scale = payload.reshape(-1), scale.reshape(-1)
    return codes, scale
