"""ONNX's `DequantizeLinear` and its like: any code, less a zero point, times a scale.

    value = (code - zero) * scale                float32, rounded once to BF16
    value = code * scale - zero * scale          where the zero point is a float
    value = code * (scale * times)               of a bias, whose scale is a product of two

Codes are I8, U8, I16, U16, I32, FP8, or packed, low bits first: I4, U4, I2, U2, F4 (E2M1). A zero
point is a code of the same kind, or a float. Scales and zero points lie on a grid of `groups` a
line, each for `size` columns. Line 0 is that of all rows, or row r of matrix m has line
`m * lines + r // block_rows`. Codes of I32 are rounded to float32 first. Sources:
https://github.com/onnx/onnx docs/Operators.md (`DequantizeLinear`, opset 21 for blocks);
https://github.com/microsoft/onnxruntime docs/ContribOperators.md (`GatherBlockQuantized`,
`MatMulNBits`, whose float zero points are what onnxruntime 1.32 makes of them on a CPU).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp4 import E2M1
from anamnesis.kernels.fp8 import E4M3, E4M3FNUZ, E5M2, E5M2FNUZ
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

_FP8 = {
    "F8_E4M3": E4M3,
    "F8_E4M3FNUZ": E4M3FNUZ,
    "F8_E5M2": E5M2,
    "F8_E5M2FNUZ": E5M2FNUZ,
}
_WIDE = {"I16": "<i2", "U16": "<u2", "I32": "<i4", "I64": "<i8"}
_HELD = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2", "F8_E8M0": "|u1"}
_round = kernel("folded:round_values")


@cache
def _table(kind: str) -> Array:
    """What each byte holds, float32 `[256, n]`, of codes of up to eight bits."""
    if kind in _FP8:
        return _FP8[kind].values[:, None]
    bits = int(kind[1:])
    # The first code in the lowest bits of a byte.
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    if kind == "F4":
        return E2M1[codes]
    if kind[0] == "I":
        # Two's complement: the sign bit counts double.
        codes = codes - (codes >> (bits - 1) << bits)
    return codes.astype(np.float32)


def _numbers(raw: Bytes, kind: str) -> Array:
    """float32 of flat bytes."""
    if kind in _HELD:
        return to_float32(kind, raw.view(_HELD[kind]))
    if kind in _WIDE:
        return raw.view(_WIDE[kind]).astype(np.float32)
    return _table(kind).take(raw, axis=0).reshape(-1)


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """Scales and zero points that are not windowed, as float32 `[lines, groups]`.

    `scalars`: `groups`, `grid_lines` of the whole grid, `scale_dtype`, `zero_kind`, and
    `zero_points`, one for all or a number each, and `scale_bits`, of 16-bit scales that are no
    array; `wholes`: `times` besides, one float32. Raises ValueError for grids of another size.
    """
    prepared = {}
    shape = (scalars["grid_lines"], scalars["groups"])
    for role, kind in (("scale", "scale_dtype"), ("zero_point", "zero_kind")):
        if role in wholes:
            raw = np.ascontiguousarray(wholes[role].array).reshape(-1).view(np.uint8)
            prepared[role] = _grid(_numbers(raw, scalars[kind]), shape, role)
    if "times" in wholes:
        raw = np.ascontiguousarray(wholes["times"].array).reshape(-1).view(np.uint8)
        prepared["times"] = _grid(_numbers(raw, "F32"), (1, 1), "times")
    if scalars["scale_bits"]:
        held = np.array(scalars["scale_bits"], "<u2").view(np.uint8)
        prepared["scale"] = _grid(_numbers(held, scalars["scale_dtype"]), shape, "scale")
    if scalars["zero_points"]:
        given = np.array(scalars["zero_points"], np.float32)
        prepared["zero_point"] = np.full((1, 1), given[0]) if given.size == 1 else _grid(
            given, shape, "zero_point"
        )  # fmt: skip
    return prepared


def _grid(numbers: Array, shape: tuple[int, int], role: str) -> Array:
    count = shape[0] * shape[1]
    if numbers.size < count:
        raise ValueError(f"{role}: {numbers.size:,} numbers where {count:,} are needed")
    return numbers[:count].reshape(shape)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of `unit_rows` rows, uint8 of `codes`, and `scale`, `zero_point` a row.

    `params`: `columns`, `stored_columns` (with what fills a row up), `kind`, `rows` of a matrix,
    `lines`, `block_rows`, `size`, and what `prepare` made. Raises ValueError for arrays that do not
    fit.
    """
    columns, stored = params["columns"], params["stored_columns"]
    rows = out.shape[0] // max(1, columns)
    raw = np.ascontiguousarray(blocks["codes"]).reshape(-1)
    codes = _numbers(raw, params["kind"])
    if rows * columns != out.shape[0] or codes.size < rows * stored:
        raise ValueError(f"out {out.shape}, {codes.size} codes for rows of {columns} columns")
    numbers = codes[: rows * stored].reshape(rows, stored)[:, :columns]
    first = window.start * params["unit_rows"]
    zero, scale = (
        _lines(role, kind, blocks, params, (first, rows))
        for role, kind in (("zero_point", "zero_kind"), ("scale", "scale_dtype"))
    )
    if "times" in params:
        scale = scale * params["times"]
    if (
        params["size"] > 1 and params["groups"] * params["size"] == columns
    ):  # a number of the grid for each run
        numbers = numbers.reshape(rows, params["groups"], params["size"])
        zero, scale = (part if part is None else part[..., None] for part in (zero, scale))
    else:
        zero, scale = (_spread(part, params, columns) for part in (zero, scale))
    with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
        if zero is not None and params["zero_kind"] in _HELD:
            # As the operator with a zero point of floats is defined: two products.
            numbers = numbers * scale - zero * scale
        else:
            numbers = numbers * scale if zero is None else (numbers - zero) * scale
        if params["rounding"] == "reference" and params["scale_dtype"] == "F16":
            numbers = numbers.astype(np.float16).astype(np.float32)
    _round(np.ascontiguousarray(numbers).reshape(-1), out)


def _lines(
    role: str,
    kind: str,
    blocks: Views,
    params: Params,
    place: tuple[int, int],
) -> Any:
    """Numbers `[rows, groups]`, or `[1, groups]` for all rows; None for no zero point."""
    first, rows = place
    if role in blocks:
        numbers = _numbers(np.ascontiguousarray(blocks[role]).reshape(-1), params[kind])
        row_bytes = params["zero_row_bytes"] if role == "zero_point" else 0
        # Rows of packed zero points are whole bytes: the last code may be padding.
        each = row_bytes * 8 // int(params[kind][1:]) if row_bytes else params["groups"]
        return _grid(numbers, (rows, each), role)[:, : params["groups"]]
    grid = params.get(role)
    if grid is None or len(grid) == 1:
        return grid
    row = np.arange(first, first + rows)
    return grid[
        row // params["rows"] * params["lines"] + row % params["rows"] // params["block_rows"]
    ]


def _spread(lines: Array, params: Params, columns: int) -> Array:
    """A number for every column."""
    if lines is None or lines.shape[1] == 1 or params["size"] == 1:
        return lines
    return np.repeat(lines, params["size"], axis=1)[:, :columns]
