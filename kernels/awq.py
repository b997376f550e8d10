"""AWQ: 4-bit codes along the outputs (GEMM) or the inputs (GEMV, GEMV-fast), and 5 to 7 bits.

| | `qweight`, I32 | `qzeros`, I32 | `scales`, F16 or BF16 |
|---|---|---|---|
| GEMM | `[in, out / 8]` | `[groups, out / 8]` | `[groups, out]` |
| stream of b bits | `[in, out * b / 32]` | `[groups, out * b / 32]` | `[groups, out]` |
| GEMV | `[out, in / 8]` | `[out, zw]` | `[out, 8 * zw]`, `zw` words hold the groups and padding |
| GEMV-fast | I16 `[out / 4, in]` | floats `[8 * zw, out]` | the same |

Nibble k of a GEMM word, lowest first, is output `8 * column + (0, 2, 4, 6, 1, 3, 5, 7)[k]`; those
of GEMV are in order, and GEMV-fast interleaves four rows (bodies/_interleaved.py). AutoRound's
streams of 5, 6 and 7 bits have GEMM's order in each eight outputs: code k of a line is bits
`[k * b, (k + 1) * b)` of it, across words. Zeros are stored as they are, but by GEMV-fast as
`-zero * scale`, rounded to F16; those of a symmetric GEMM layer without `qzeros` are 8:

    value = (code - zero) * scale          float32, rounded once to BF16
    value = code * scale + stored          GEMV-fast

Output is `nn.Linear`'s `[out, in]`: GEMM and streams are transposed, GEMV is not. Sources:
https://github.com/casper-hansen/AutoAWQ awq/utils/packing_utils.py (`dequantize_gemm`),
awq/modules/linear/gemv.py, gemv_fast.py; https://github.com/intel/auto-round 0.16.1
auto_round/utils/bit_packing.py (`pack_awq_bitstream`), export/export_to_awq/utils.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine, Groups, decode_columns, decode_rows, index_of, numbers
from anamnesis.kernels._codes import bits_of, read_scales, read_zeros
from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels._packed import block_inputs
from anamnesis.kernels.types import Array, Params, Views, Wholes

_BITS = 4
_BYTE = 8  # bits that codes of streams are spread to
ROWS, COLUMNS, STEP = 4, 64, 32  # of GEMV-fast: rows and columns that share a run, columns a step
decode_interleaved = kernel("_interleaved:decode_interleaved")
_join_lines = variants("awq:join_lines")


def prepare(scalars: Params, wholes: Wholes, signed: bool = False) -> dict[str, Any]:
    """`affine`, whose codes may be `signed`, and `groups_of` the inputs.

    `scalars`: `version`, `bits`, `in_features`, `group_size` (-1: all), `groups`, `scale_dtype`,
    `rounding`. Raises ValueError for inputs without a group.
    """
    inputs, size, groups = scalars["in_features"], scalars["group_size"], scalars["groups"]
    index = index_of(inputs, size)
    if index.max(initial=-1) >= groups:
        raise ValueError(f"{groups:,} groups of {size:,} do not cover {inputs:,} inputs")
    gemm, bits = scalars["version"] == "gemm", scalars["bits"]
    nibbles = gemm and bits == _BITS
    affine = Affine.of(
        {**scalars, "bits": bits if bits == _BITS else _BYTE},
        order="nibbles" if nibbles else "dense",
        signed=signed,
    )
    return {
        "affine": affine,
        "groups_of": Groups.of(index, block_inputs(affine.bits, nibbles) if gemm else inputs),
    }


def decode_gemm(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[lines, bytes]` of their columns; whole words of eight.

    `params`: `in_features`, and what `prepare` made.
    """
    affine, inputs, rows = params["affine"], params["in_features"], window.stop - window.start
    words = blocks["qweight"].view("<u4")
    scales = read_scales(affine.scale_dtype, blocks["scales"])
    if words.shape != (inputs, rows // 8) or rows % 8:
        raise ValueError(f"qweight: words {words.shape} for {inputs} inputs and rows {window}")
    _check(scales, params, rows, out)
    if "qzeros" in blocks:
        zeros = read_zeros(blocks["qzeros"], affine.bits, 0, 0, True, scales.shape)
        if affine.signed:
            # Nibbles in two's complement.
            zeros -= np.float32(16) * (zeros >= 8)
    else:
        zeros = np.full(scales.shape, np.float32(affine.middle))
    decode_columns(affine, params["groups_of"], words, zeros, scales, out)


def decode_stream(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[lines, bytes]` of their columns; whole steps of 32.

    `params`: `bits`, `in_features`, and what `prepare` made.
    """
    affine, bits, inputs = params["affine"], params["bits"], params["in_features"]
    lines, rows = np.ascontiguousarray(blocks["qweight"]), window.stop - window.start
    scales = read_scales(affine.scale_dtype, blocks["scales"])
    if lines.shape != (inputs, rows * bits // 8) or rows % 32:
        raise ValueError(f"qweight: bytes {lines.shape} for {inputs} inputs and rows {window}")
    _check(scales, params, rows, out)
    zeros = read_zeros(blocks["qzeros"], bits, 0, 0, True, scales.shape)
    # Four codes of a column are a word, as those of 8 bits are stored along the inputs.
    words = np.empty((-(-inputs // 4), rows), np.uint32)
    _join_lines(bits)(lines, np.zeros((4, rows), np.uint8), words)
    decode_columns(affine, params["groups_of"], words, zeros, scales, out)


def decode_gemv(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[rows, bytes]`; parameters as for `decode_gemm`."""
    affine, inputs, rows = params["affine"], params["in_features"], window.stop - window.start
    streams = blocks["qweight"]
    if streams.shape != (rows, inputs // 2):
        raise ValueError(f"qweight: bytes {streams.shape} for rows {window} of {inputs} inputs")
    scales = bits_of(affine.scale_dtype, blocks["scales"])
    zeros = read_zeros(blocks["qzeros"], affine.bits, 0, 0, False, scales[0].shape)
    _check(scales[0].T, params, rows, out)
    decode_rows(affine, params["groups_of"], streams, numbers(zeros), scales, out)


def decode_gemv_fast(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of four output rows, from uint8 `[units, bytes]` and columns of scales.

    Parameters as for `decode_gemm`, and `group_size`.
    """
    inputs, rows = params["in_features"], ROWS * (window.stop - window.start)
    stream = blocks["qweight"].reshape(-1)
    size = params["group_size"] if params["group_size"] > 0 else inputs
    if stream.size != rows * inputs // 2 or inputs % COLUMNS or size % STEP:
        raise ValueError(f"qweight: {stream.size} bytes for {rows} rows of {inputs}, groups {size}")
    dtype = params["affine"].scale_dtype
    scales, added = (read_scales(dtype, blocks[part]) for part in ("scales", "qzeros"))
    _check(scales, params, rows, out)
    if added.shape != scales.shape:
        raise ValueError(f"qzeros {added.shape}, scales {scales.shape}")
    half = params["affine"].twice == "F16"
    decode_interleaved(stream, size, scales, added, half, inputs, out)


def _check(scales: Array, params: Params, rows: int, out: Array) -> None:
    """Shapes, before code that does not look at them."""
    inputs = params["in_features"]
    most = int(params["groups_of"].of_run.max(initial=-1))
    if scales.shape[1] != rows or scales.shape[0] <= most or out.shape != (rows * inputs,):
        raise ValueError(f"scales {scales.shape}, out {out.shape}: {rows} rows of {inputs}")
