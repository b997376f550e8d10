"""Four Over Six: FP4 or signed integers of four bits, in blocks, over the maximum of the tensor.

| component | stored, of `[rows, columns]` filled up to whole tiles |
|---|---|
| `codes` | U8, element 2k of a row in the low half of a byte |
| `scale` | E4M3 or E8M0, one for each `block` of a row; in tiles as torchao's, or row by row |
| `amax` | F32, one; not of E8M0 scales |

    value = number(code) * scale * amax / unit          float32, each step rounded, then to BF16
    value = number(code) * scale                        of E8M0

`unit` is the largest number of codes times that of scales, by the rule that chose the scales: 6 or
4, 7 for integers; 448, or 256 where blocks choose between 4 and 6. With `if4` the sign bit of an
E4M3 scale says that its block has integers, which are meant times 6 / 7 (float32). In reference
order number and its product with the scale are rounded to F16 on the way. Source:
https://github.com/mit-han-lab/fouroversix src/fouroversix/quantize/backend.py (`dequantize`),
dequantize_utils.py (dadfad6).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp4 import E2M1
from anamnesis.kernels.fp8 import E4M3
from anamnesis.kernels.torchao import TILE_ROWS, untile
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

_INT4 = np.array([*range(8), *range(-8, 0)], np.float32)
_SEVENTHS = _INT4 * np.float32(6 / 7)
_MEANT_INT = 128  # of a scale of if4
_round = kernel("folded:round_values")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The maximum, float32, if there is one."""
    if "amax" not in wholes:
        return {}
    return {"amax": wholes["amax"].array.reshape(-1)[:1].astype(np.float32)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of 128 rows, the last maybe short, from flat uint8 of `codes` and `scale`.

    `params`: `columns`, `stored_columns`, `block`, `kind` (fp4, int4, if4), `tiles`, `mx`, `unit`,
    and `amax`. Raises ValueError for arrays that do not fit one another.
    """
    columns, stored, block = params["columns"], params["stored_columns"], params["block"]
    rows, rest = divmod(out.shape[0], max(1, columns))
    units = window.stop - window.start
    if rest or not (units - 1) * TILE_ROWS < rows <= units * TILE_ROWS:
        raise ValueError(f"out {out.shape} for units {window} of {TILE_ROWS} x {columns}")
    raw, scale = blocks["codes"].reshape(-1), blocks["scale"].reshape(-1)
    each = stored // block
    if raw.size < rows * stored // 2 or scale.size < rows * each:
        raise ValueError(f"{raw.size} bytes of codes, {scale.size} scales for {rows} rows")
    raw = np.ascontiguousarray(raw[: rows * stored // 2])
    # Element 2 i is the low half of byte i.
    codes = np.stack([raw & 15, raw >> 4], -1).reshape(rows, each, block)
    plain = scale[: rows * each].reshape(rows, each)
    used = untile(scale, rows, each) if params["tiles"] else plain
    half = params["rounding"] == "reference"
    with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
        numbers = _narrow(_numbers(codes, used, params["kind"]), half)
        factor = to_float32("F8_E8M0", used) if params["mx"] else _e4m3(used, params["kind"])
        numbers = _narrow(numbers * _narrow(factor, half)[..., None], half)
        if not params["mx"]:
            numbers = numbers * params["amax"] / np.float32(params["unit"])
    _round(np.ascontiguousarray(numbers.reshape(rows, stored)[:, :columns]).reshape(-1), out)


def used_scales(params: Params, scale: Bytes, rows: int) -> Array:
    """The scales of `rows` from the start of a tile, without what fills rows and columns up."""
    each = params["stored_columns"] // params["block"]
    flat = np.ascontiguousarray(scale).reshape(-1)
    plain = untile(flat, rows, each) if params["tiles"] else flat[: rows * each].reshape(rows, each)
    plain = plain[:, : -(-params["columns"] // params["block"])]
    return to_float32("F8_E8M0", plain) if params["mx"] else _e4m3(plain, params["kind"])


def _numbers(codes: Bytes, scale: Array, kind: str) -> Array:
    if kind == "if4":
        # Bit 7 of a scale, which E4M3 without a sign has no use for, says that codes are integers.
        return np.where(scale[..., None] >= _MEANT_INT, _SEVENTHS[codes], E2M1[codes])
    return (_INT4 if kind == "int4" else E2M1)[codes]


def _e4m3(scale: Bytes, kind: str) -> Array:
    return E4M3.values[scale & 127 if kind == "if4" else scale]


def _narrow(numbers: Array, half: bool) -> Array:
    return numbers.astype(np.float16).astype(np.float32) if half else numbers
