"""AWQ: 4-bit codes along the outputs (GEMM) or the inputs (GEMV, GEMV-fast).

| | `qweight`, I32 | `qzeros`, I32 | `scales`, F16 or BF16 |
|---|---|---|---|
| GEMM | `[in, out / 8]` | `[groups, out / 8]` | `[groups, out]` |
| GEMV | `[out, in / 8]` | `[out, zw]` | `[out, 8 * zw]`, `zw` words hold the groups and padding |
| GEMV-fast | I16 `[out / 4, in]` | F16 `[8 * zw, out]` | F16 `[8 * zw, out]` |

Nibble k of a GEMM word, lowest first, is output `8 * column + (0, 2, 4, 6, 1, 3, 5, 7)[k]`; those
of GEMV are in order, and GEMV-fast interleaves four rows (bodies/_interleaved.py). Zeros are stored
as they are, but by GEMV-fast as `-zero * scale`, rounded to F16; those of a symmetric GEMM layer
without `qzeros` are 8:

    value = (code - zero) * scale          float32, rounded once to BF16
    value = code * scale + stored          GEMV-fast

Output is `nn.Linear`'s `[out, in]`: GEMM is transposed, GEMV is not. Sources:
https://github.com/casper-hansen/AutoAWQ awq/utils/packing_utils.py (`dequantize_gemm`),
awq/modules/linear/gemv.py, gemv_fast.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import are_whole, read_scales, read_zeros, way_of
from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels._packed import block_inputs, room_for_runs, runs_of

_BITS = 4
ROWS, COLUMNS, STEP = 4, 64, 32  # of GEMV-fast: rows and columns that share a run, columns a step
decode_interleaved = kernel("_interleaved:decode_interleaved")
decode_rows = variants("_packed:decode_rows")
decode_runs = variants("_packed:decode_runs")


def prepare(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> dict[str, Any]:
    """`starts` and `groups` of the runs of inputs that share a scale; `whole`: multiples of 16.

    `scalars`: `version`, `in_features`, `group_size` (-1: all), `groups`. Raises ValueError for
    inputs without a group.
    """
    inputs, size, groups = scalars["in_features"], scalars["group_size"], scalars["groups"]
    index = np.arange(inputs, dtype=np.int64) // (size if size > 0 else max(1, inputs))
    if index.max(initial=-1) >= groups:
        raise ValueError(f"{groups:,} groups of {size:,} do not cover {inputs:,} inputs")
    block = block_inputs(_BITS, True) if scalars["version"] == "gemm" else max(1, inputs)
    starts, of_run = runs_of(index, block)
    return {"starts": starts, "groups": of_run, "whole": are_whole(starts)}


def decode_gemm(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Output rows `window`, from uint8 `[lines, bytes]` of their columns; whole words of eight.

    `params`: `in_features`, `scale_dtype`, `rounding`, and what `prepare` made.
    """
    inputs, rows = params["in_features"], window.stop - window.start
    words = blocks["qweight"].view("<u4")
    scales = read_scales(params["scale_dtype"], blocks["scales"])
    if words.shape != (inputs, rows // 8) or rows % 8:
        raise ValueError(f"qweight: words {words.shape} for {inputs} inputs and rows {window}")
    _check(scales, params, rows, out)
    if "qzeros" in blocks:
        zeros = read_zeros(blocks["qzeros"], _BITS, 0, 0, True, scales.shape)
    else:
        zeros = np.full(scales.shape, np.float32(1 << (_BITS - 1)))
    starts, groups = params["starts"], params["groups"]
    runs = decode_runs(_BITS, True, way_of(_BITS, params["whole"], _half(params)))
    room = room_for_runs(_BITS, True, groups.shape[0])
    runs(words, starts, groups, zeros, scales, inputs, room, out)


def decode_gemv(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Output rows `window`, from uint8 `[rows, bytes]`; parameters as for `decode_gemm`."""
    inputs, rows = params["in_features"], window.stop - window.start
    streams = blocks["qweight"]
    if streams.shape != (rows, inputs // 2):
        raise ValueError(f"qweight: bytes {streams.shape} for rows {window} of {inputs} inputs")
    scales = read_scales(params["scale_dtype"], blocks["scales"])
    zeros = read_zeros(blocks["qzeros"], _BITS, 0, 0, False, scales.shape)
    _check(scales.T, params, rows, out)
    starts = params["starts"]
    rows_of = decode_rows(_BITS, way_of(_BITS, params["whole"], _half(params)))
    codes = np.empty(-(-inputs // 32) * 32, np.uint8)
    rows_of(streams, starts, zeros, scales, inputs, codes, out)


def decode_gemv_fast(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Units `window` of four output rows, from uint8 `[units, bytes]` and columns of scales.

    Parameters as for `decode_gemm`, and `group_size`.
    """
    inputs, rows = params["in_features"], ROWS * (window.stop - window.start)
    stream = blocks["qweight"].reshape(-1)
    size = params["group_size"] if params["group_size"] > 0 else inputs
    if stream.size != rows * inputs // 2 or inputs % COLUMNS or size % STEP:
        raise ValueError(f"qweight: {stream.size} bytes for {rows} rows of {inputs}, groups {size}")
    scales = read_scales("F16", blocks["scales"])
    added = read_scales("F16", blocks["qzeros"])
    _check(scales, params, rows, out)
    if added.shape != scales.shape:
        raise ValueError(f"qzeros {added.shape}, scales {scales.shape}")
    decode_interleaved(stream, size, scales, added, _half(params), inputs, out)


def _check(scales: Any, params: Mapping[str, Any], rows: int, out: Any) -> None:
    """Shapes, before code that does not look at them."""
    inputs = params["in_features"]
    most = int(params["groups"].max(initial=-1))
    if scales.shape[1] != rows or scales.shape[0] <= most or out.shape != (rows * inputs,):
        raise ValueError(f"scales {scales.shape}, out {out.shape}: {rows} rows of {inputs}")


def _half(params: Mapping[str, Any]) -> bool:
    return params["rounding"] == "reference" and params["scale_dtype"] == "F16"
