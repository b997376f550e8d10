"""FP8: one code a byte, times the scale of its block.

| encoding | layout, high bit first | bias | special codes |
|---|---|---|---|
| E4M3 ("fn") | s eeee mmm | 7 | 0x7F, 0xFF NaN; no infinity; max 448 |
| E5M2 | s eeeee mm | 15 | as IEEE: 0x7C infinity, above it NaN; max 57344 |
| E4M3FNUZ | s eeee mmm | 8 | 0x80 NaN; no infinity, no -0; max 240 |
| E5M2FNUZ | s eeeee mm | 16 | 0x80 NaN; no infinity, no -0; max 57344 |

E4M3 and E5M2: OCP 8-bit Floating Point Specification, revision 1.0, section 5; FNUZ: "8-bit
Numerical Formats for Deep Neural Networks" (https://arxiv.org/abs/2206.02915). Codes lie row-major
in a stack of matrices; scales are a grid a matrix, one number for `bm` rows and `bn` columns, the
last blocks cropped (https://github.com/deepseek-ai/DeepSeek-V3 README_WEIGHTS.md; for blocks of
1 x 32 with E8M0 scales the OCP Microscaling specification, section 6.3):

    value = float32(code) * float32(scale), rounded once to BF16
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Floats, Params, Views, Wholes

_scaled = kernel("fp8:scaled")


class Format(NamedTuple):
    """`values` float32 `[256]` by code, and the numbers that `to_reals` takes."""

    values: Floats
    shift: int  # 0 where `to_reals_e5m2fnuz` takes the place of `to_reals`
    mask: int
    keep: int
    nan: int
    factor: float  # of `to_reals`
    lone: int  # the signed code that is NaN and not the negative of another; above 127: none


def _finite(exponent_bits: int, bias: int) -> Array:
    code = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    # Bit 7 the sign, then exponent and mantissa.
    exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1)
    # An exponent of 0 is that of 1 without the leading one: subnormal.
    lead = np.where(exponent > 0, 1 << mantissa_bits, 0)
    power = np.maximum(exponent, 1) - bias - mantissa_bits
    return np.ldexp(np.where(code > 127, -1.0, 1.0) * (lead + mantissa), power).astype(np.float32)


def _with(values: Array, special: Mapping[int, float]) -> Array:
    for code, value in special.items():
        values[code] = value
    return values


_NAN, _INF = np.nan, np.inf
_IEEE = {0x7C: _INF, 0x7D: _NAN, 0x7E: _NAN, 0x7F: _NAN}
_IEEE |= {code + 0x80: -value for code, value in _IEEE.items()}
E4M3 = Format(_with(_finite(4, 7), {0x7F: _NAN, 0xFF: -_NAN}), 7, 0xBFFF, 0x7F, 0x7F, 2.0**8, 999)
E5M2 = Format(_with(_finite(5, 15), _IEEE), 8, 0xFFFF, 0, 1, 1.0, 999)
E4M3FNUZ = Format(_with(_finite(4, 8), {0x80: _NAN}), 7, 0xBFFF, 0xFF, 0x80, 2.0**7, -128)
E5M2FNUZ = Format(_with(_finite(5, 16), {0x80: _NAN}), 0, 0, 0xFF, 0x80, 1.0, -128)


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The scale grid as float32 `[matrices or 1, block rows, block columns]`.

    `scalars["grid"]` is that shape; `wholes["scale"]` is the stored tensor, in any shape of as
    many numbers, or of those of `scalars["stored_grid"]`, which has more blocks than are used.
    Without one every scale is 1. NaNs are made such that rounding keeps them.
    """
    scale = wholes.get("scale")
    if scale is None:
        return {"scale": np.ones(scalars["grid"], np.float32)}
    blocks = used_blocks(scalars, scale.array)
    if scale.dtype == "F32":  # nothing to tell of; there may be a million
        grid = to_float32("F32", blocks)
    else:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            grid = to_float32(scale.dtype, blocks)
    nan = np.isnan(grid)
    if nan.any():
        # The upper 16 bits of a NaN are what BF16 keeps; bit 22 makes it quiet.
        grid[nan] = (grid[nan].view(np.uint32) & 0xFFFF0000 | 0x00400000).view(np.float32)
    return {"scale": np.ascontiguousarray(grid)}


def stacked(scalars: Params, units: int, count: int) -> dict[str, Any] | None:
    """The parameters of `count` matrices alike, of `units` rows each, as those of one stack.

    Their codes and their grids of scales lie one behind the other. None where each is a stack.
    """
    if scalars["rows"] != units or scalars["grid"][0] != 1:
        return None
    grids = (key for key in ("grid", "stored_grid") if key in scalars)
    return {**scalars, **{key: (count, *scalars[key][1:]) for key in grids}}


def used_blocks(scalars: Params, scale: Array) -> Array:
    """A stored grid of any shape as `[matrices or 1, block rows, block columns]` that are used."""
    _, lines, across = scalars["grid"]
    return scale.reshape(scalars.get("stored_grid", scalars["grid"]))[:, :lines, :across]


def decode_e4m3(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """E4M3 codes; see `_decode` for the parameters."""
    _decode(E4M3, blocks, params, window, out)


def decode_e5m2(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """E5M2 codes; see `_decode` for the parameters."""
    _decode(E5M2, blocks, params, window, out)


def decode_e4m3fnuz(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """E4M3FNUZ codes; see `_decode` for the parameters."""
    _decode(E4M3FNUZ, blocks, params, window, out)


def decode_e5m2fnuz(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """E5M2FNUZ codes; see `_decode` for the parameters."""
    _decode(E5M2FNUZ, blocks, params, window, out)


def _decode(code: Format, blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Decode `payload`, uint8 `[rows, columns]`: rows `window` of the stacked matrices.

    `params`: `rows` of one matrix, `block` `(bm, bn)`, and `scale` as `prepare` made it.
    """
    payload, scale = blocks["payload"], params["scale"]
    rows, columns = payload.shape
    if out.shape != (rows * columns,) or window.stop - window.start != rows:
        raise ValueError(f"out: {out.shape} for rows {window} of {columns} columns")
    if not out.size:
        return
    (bm, bn), matrix_rows = params["block"], params["rows"]
    if scale.size == 1:  # all matrices are one run
        bm = matrix_rows = window.stop
    codes = payload.reshape(-1)
    _scaled(codes, scale, tuple(code), matrix_rows, columns, bm, bn, window.start, out)
