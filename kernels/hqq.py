"""HQQ: codes of 1 to 8 bits with a scale and a zero, both numbers of the compute dtype, a group.

A matrix is reshaped to `[N, g]` (axis 1: a group is `g` neighbours) or `[g, N]` (axis 0: a group is
a column), and its `R` rows are packed by halves, quarters, eighths or tenths:

| packing | `W_q` | row `k * lines + r` is |
|---|---|---|
| `8bit_u8` | U8 `[R, …]` | the byte |
| `4bit_u8` | U8 `[R / 2, …]` | bits `4 - 4k` and up of line `r` |
| `2bit_u8` | U8 `[R / 4, …]` | bits `6 - 2k` and up |
| `1bit_u8` | U8 `[R / 8, …]` | bit `7 - k` |
| `3bit_32` | I32 `[ceil(R / 10), …]` | bits `27 - 3k` and up; rows past the last are filling |

    value = (code - zero) * scale          each step float32, rounded once to BF16

`reference` is HQQ's order: each step in the dtype that PyTorch gives it, mostly `compute_dtype`.
Source: https://github.com/mobiusml/hqq hqq/core/quantize.py (`Quantizer.dequantize`),
hqq/core/bitpack.py.
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine
from anamnesis.kernels._codes import bits_of
from anamnesis.kernels._planar import lines_of
from anamnesis.kernels._planar_scales import decode_columns, decode_units, words_of
from anamnesis.kernels.types import Array, Numbers, Params, Views, Wholes


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`affine`: the zero comes first, and what the two steps are rounded to.

    `scalars`: `compute_dtype`, `scale_dtype`, `zero_dtype` (BF16, F16 or F32), `rounding`.
    """
    compute, scale, zero = (scalars[f"{k}_dtype"] for k in ("compute", "scale", "zero"))
    steps = ("F32", "F32")
    if scalars["rounding"] == "reference":
        first = compute if compute == zero else "F32"
        steps = (first, first if first == scale else "F32")
    # Where both dtypes differ torch computes in float32, and rounds nothing between.
    once, twice = steps
    return {"affine": Affine(scalars["bits"], scale, "planar", once=once, twice=twice)}


def decode_axis1(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups `window`, from uint8 `[lines, bytes]` of `W_q`, `[groups, bytes]` of the others.

    `params`: `bits`, `group_size`, `period` (packed rows), and what `prepare` made. Raises
    ValueError for arrays that do not fit one another.
    """
    bits, size, period = params["bits"], params["group_size"], params["period"]
    data, base = lines_of(blocks["W_q"], window, period)
    scales, zeros = _numbers(blocks, params)
    groups = window.stop - window.start
    _check(blocks["W_q"], bits, size, period, window)
    if {x[0].shape for x in (scales, zeros)} != {(groups,)} or out.shape != (groups * size,):
        raise ValueError(
            f"scale {scales[0].shape}, zero {zeros[0].shape}, out {out.shape}: {window}"
        )
    planes = data, words_of(data, bits), base, period, size, False
    decode_units(params["affine"], out)(planes, scales, zeros, window.start, out)


def decode_axis0(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of `unit` elements, from uint8 `[lines, bytes]` of all components.

    `params`: `bits`, `unit`, `columns` (N) and `period` (of `W_q`), both in units, and what
    `prepare` made. Raises ValueError as above.
    """
    bits, unit, period, columns = (params[k] for k in ("bits", "unit", "period", "columns"))
    data, base = lines_of(blocks["W_q"], window, period)
    _, scale_base = lines_of(blocks["scale"], window, columns)
    _, zero_base = lines_of(blocks["zero"], window, columns)
    scales, zeros = _numbers(blocks, params)
    _check(blocks["W_q"], bits, unit, period, window)
    lines = blocks["scale"].shape[0] * unit
    if {x[0].shape for x in (scales, zeros)} != {(lines,)} or scale_base != zero_base:
        raise ValueError(f"scale {scales[0].shape}, zero {zeros[0].shape}: {lines} numbers")
    if out.shape != ((window.stop - window.start) * unit,):
        raise ValueError(f"out {out.shape}: {window} of {unit}")
    planes = data, words_of(data, bits), base * unit, period * unit, columns * unit, False
    decode = decode_columns(params["affine"], out)
    decode(planes, scales, zeros, scale_base * unit, window.start * unit, out)


def _numbers(blocks: Views, params: Params) -> tuple[Numbers, Numbers]:
    """The stored bits of scales and zeros, in one dimension."""
    scales, half = bits_of(params["scale_dtype"], blocks["scale"])
    zeros, half_zeros = bits_of(params["zero_dtype"], blocks["zero"])
    return (scales.reshape(-1), half), (zeros.reshape(-1), half_zeros)


def _check(view: Array, bits: int, size: int, period: int, window: Window) -> None:
    fields = 10 if bits == 3 else 8 // bits
    if view.shape[1] != size * (4 if bits == 3 else 1):
        raise ValueError(f"W_q: lines of {view.shape[1]} bytes for {size} codes of {bits} bits")
    if not 0 <= window.start <= window.stop <= fields * period:
        raise ValueError(f"W_q: units {window} of {fields} times {period}")
