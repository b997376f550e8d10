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
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._jit import jit, put
from anamnesis.kernels.bits import to_float32


def _values(exponent_bits: int, bias: int) -> Any:
    """The finite reading of all 256 codes, as float32."""
    code = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1)
    lead = np.where(exponent > 0, 1 << mantissa_bits, 0)
    power = np.maximum(exponent, 1) - bias - mantissa_bits
    return np.ldexp(np.where(code > 127, -1.0, 1.0) * (lead + mantissa), power).astype(np.float32)


def _fnuz(values: Any) -> Any:
    values[0x80] = np.nan
    return values


def _e4m3() -> Any:
    values = _values(4, 7)
    values[[0x7F, 0xFF]] = np.nan, -np.nan
    return values


def _e5m2() -> Any:
    values = _values(5, 15)
    values[0x7C], values[0xFC] = np.inf, -np.inf
    values[0x7D:0x80], values[0xFD:] = np.nan, -np.nan
    return values


E4M3, E5M2 = _e4m3(), _e5m2()
E4M3FNUZ, E5M2FNUZ = _fnuz(_values(4, 8)), _fnuz(_values(5, 16))


def prepare(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> dict[str, Any]:
    """The scale grid as float32 `[matrices or 1, block rows, block columns]`.

    `scalars["grid"]` is that shape; `wholes["scale"]` is the stored tensor, in any shape of as
    many numbers. Without one every scale is 1.
    """
    scale = wholes.get("scale")
    if scale is None:
        return {"scale": np.ones(scalars["grid"], np.float32)}
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        grid = to_float32(scale.dtype, scale.array)
    return {"scale": np.ascontiguousarray(grid.reshape(scalars["grid"]))}


def decode_e4m3(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """E4M3 codes; see `_decode` for the parameters."""
    _decode(E4M3, blocks, params, window, out)


def decode_e5m2(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """E5M2 codes; see `_decode` for the parameters."""
    _decode(E5M2, blocks, params, window, out)


def decode_e4m3fnuz(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """E4M3FNUZ codes; see `_decode` for the parameters."""
    _decode(E4M3FNUZ, blocks, params, window, out)


def decode_e5m2fnuz(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """E5M2FNUZ codes; see `_decode` for the parameters."""
    _decode(E5M2FNUZ, blocks, params, window, out)


def _decode(
    table: Any, blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Decode `payload`, uint8 `[rows, columns]`: rows `window` of the stacked matrices.

    `params`: `rows` of one matrix, `block` `(bm, bn)`, and `scale` as `prepare` made it.
    """
    payload = blocks["payload"]
    rows, columns = payload.shape
    if out.shape != (rows * columns,) or window.stop - window.start != rows:
        raise ValueError(f"out: {out.shape} for rows {window} of {columns} columns")
    bm, bn = params["block"]
    codes, scale, per = payload.reshape(-1), params["scale"], params["rows"]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        _scaled(table, codes, scale, per, columns, bm, bn, window.start, out)


@jit
def _scaled(
    table: Any, codes: Any, scale: Any, per: Any, columns: Any, bm: Any, bn: Any, row: Any, out: Any
) -> None:
    at = 0
    while at < out.shape[0]:
        matrix = min(row // per, scale.shape[0] - 1)
        line = row % per
        for block in range(scale.shape[2]):
            s = scale[matrix, line // bm, block]
            for j in range(at + block * bn, at + min(block * bn + bn, columns)):
                put(out, j, table[codes[j]] * s)
        at += columns
        row += 1
