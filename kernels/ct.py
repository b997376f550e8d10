"""compressed-tensors' integers: packed words of 1 to 8 bits, and plain INT8.

| encoding | codes | zero points, if there are any |
|---|---|---|
| `ct-packed` | I32 `[rows, words]`, packed along each row | I32, packed *down* the rows, or I8 |
| `ct-int8` | I8 `[rows, columns]` | I8 |

Packed are streams of `b` bits, lowest bit first. They are dense, 32 codes in `b` words (version
0.18 and later), or padded: a word holds `32 // b` codes and its top bits are unused (0.17 and
earlier). Both are the same for 1, 2, 4 and 8 bits. Packed numbers are stored plus `2 ** (b - 1)`.

    value = (code - zero) * scale          float32, rounded once to BF16

A scale covers a group of a row's columns, a row, the tensor, or a block of rows and columns; a zero
point covers the same. `g_idx` gives each column's group (`actorder: group` of old files); -1 in it
says that it was never filled in. Sources, https://github.com/vllm-project/compressed-tensors:
compressors/pack_quantized/helpers.py and quantization/lifecycle/forward_helpers.py
(`_dequantize`) of 0.20.0; quantization/lifecycle/forward.py of 0.9.4 for `g_idx`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import (
    look_up_runs,
    multiply_runs,
    scale_each,
    scale_runs,
    spread,
    to_half,
)
from anamnesis.kernels._ct_lines import (
    DENSE,
    KINDS,
    NONE,
    PADDED,
    PLAIN,
    line_of,
    read_scale_line,
    read_zero_line,
    spread_padded,
    unpack_zero_line,
)
from anamnesis.kernels._jit import as_f32, bf16_bits, jit, put
from anamnesis.kernels._packed import runs_of
from anamnesis.kernels._vector import load16, load32, signed, store, to_f32
from anamnesis.kernels.bits import u32

_ZEROS = {"": NONE, "plain": PLAIN, "dense": DENSE, "padded": PADDED}
_STEP, _HALF_STEP = 32, 16
_ALL = 1 << 62  # more rows than there are
_SHORT_RUN = 16  # columns a group, on average, from which on runs pay


def prepare(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> dict[str, Any]:
    """What the kernels take besides a window, from the tensor's parameters and whole components.

    `scalars`: `in_features`, `rows` of a matrix, `matrices`, `unit_rows` (rows a unit), `groups`
    and `group_size` of a row, `lines` of the grid a matrix (0: one for all) and `block_rows`, which
    a line covers, `zero` ("", plain, dense, padded), `scale_dtype`, `rounding`, and of packed codes
    `bits` and `padded`. `wholes`: `weight_scale` and `weight_zero_point` unless windowed, and
    `weight_g_idx`. Raises ValueError for grids and groups that do not cover the tensor.
    """
    inputs, groups, size = scalars["in_features"], scalars["groups"], scalars["group_size"]
    rows, lines, block = scalars["rows"], scalars["lines"], scalars["block_rows"]
    index = np.arange(inputs, dtype=np.int64) // max(1, size)
    if "weight_g_idx" in wholes:
        stored = wholes["weight_g_idx"].array.reshape(-1).astype(np.int64)
        if stored.shape != (inputs,):
            raise ValueError(f"weight_g_idx: {stored.size:,} entries for {inputs:,} columns")
        if not (stored == -1).any():
            index = stored
    bad = np.flatnonzero((index < 0) | (index >= groups))
    if bad.size:
        raise ValueError(
            f"weight_g_idx: column {bad[0]:,} is of group {index[bad[0]]:,}; allowed is 0 to "
            f"{groups - 1:,}"
        )
    if max(1, lines) * block < rows or min(groups, block) < 1:
        raise ValueError(f"{lines} lines of {block} rows do not cover {rows:,} rows")
    starts, of_run = runs_of(index, max(1, inputs))
    scattered = of_run.size * _SHORT_RUN > inputs or (of_run != np.arange(of_run.size)).any()
    scattered = scattered and not np.array_equal(of_run, np.arange(groups))
    prepared = {
        "starts": np.array([0]) if scattered else starts,
        "index": index if scattered else index[:0],
        "aligned": not (np.diff(starts) % _HALF_STEP).any(),
        "kind": KINDS[scalars["scale_dtype"]],
        "zeros": _ZEROS[scalars["zero"]],
        "half": scalars["rounding"] == "reference" and scalars["scale_dtype"] == "F16",
        "narrow": scalars["rounding"] == "reference" and scalars["scale_dtype"] == "BF16",
        "scale_bytes": 4 if scalars["scale_dtype"] == "F32" else 2,
        "zero_words": _words(rows, scalars),
    }
    whole_lines = scalars["matrices"] * lines if lines else 1
    for role, count in (
        ("weight_scale", whole_lines * groups),
        ("weight_zero_point", whole_lines * groups),
    ):
        if role not in wholes:
            continue
        if role == "weight_zero_point" and prepared["zeros"] > PLAIN:
            count = scalars["matrices"] * prepared["zero_words"] * groups
        array = wholes[role].array
        if array.size != count:
            raise ValueError(f"{role}: {array.size:,} numbers where {count:,} are needed")
        prepared[role] = _flat(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return prepared


def _words(rows: int, scalars: Mapping[str, Any]) -> int:
    """Words that a column of zero points takes in one matrix."""
    bits = scalars.get("bits", 8)
    if scalars.get("padded"):
        return -(-rows // (32 // bits))
    return -(-rows * bits // 32)


def decode_packed(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Rows of `ct-packed`: units of `unit_rows` rows, uint8 `[units, bytes]` of each component.

    `params`: as for `prepare`, and what it made. Raises ValueError for arrays that do not fit one
    another.
    """
    bits, padded, inputs = params["bits"], params["padded"], params["in_features"]
    payload = _flat(blocks["weight_packed"].reshape(-1))
    each = 32 // bits
    stored = 4 * (-(-inputs // each) if padded else -(-inputs * bits // 32))
    scales, zeros, place, zero_place = _bind(blocks, params, window, out, payload, stored)
    _packed(
        payload, stored, bits, padded and 32 % bits != 0, scales, params["kind"], place,
        params["groups"], zeros, params["zeros"], zero_place, params["zero_words"],
        params["starts"], params["index"], params["aligned"], inputs, params["half"], out,
    )  # fmt: skip
    if params["narrow"] and out.dtype == np.float32:
        _narrow(out)


def decode_int8(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Rows of `ct-int8`; as `decode_packed`."""
    inputs = params["in_features"]
    payload = _flat(blocks["weight"].reshape(-1))
    scales, zeros, place, _ = _bind(blocks, params, window, out, payload, inputs)
    _int8(
        payload, scales, params["kind"], place, params["groups"], zeros, params["zeros"] == PLAIN,
        params["starts"], params["index"], inputs, params["half"], out,
    )  # fmt: skip
    if params["narrow"] and out.dtype == np.float32:
        _narrow(out)


def _bind(
    blocks: Mapping[str, Any],
    params: Mapping[str, Any],
    window: Window,
    out: Any,
    payload: Any,
    row_bytes: int,
) -> tuple[Any, Any, tuple[int, ...], tuple[int, ...]]:
    """Scales and zero points as flat bytes, and where rows find theirs; checks all sizes."""
    inputs, unit_rows, groups = params["in_features"], params["unit_rows"], params["groups"]
    rows, rest = divmod(out.shape[0], max(1, inputs))
    units, first = window.stop - window.start, window.start * unit_rows
    if rest or not (units - 1) * unit_rows < rows <= units * unit_rows:
        raise ValueError(f"out {out.shape} for units {window} of {unit_rows} x {inputs}")
    if payload.size < rows * row_bytes:
        raise ValueError(f"payload: {payload.size} bytes for {rows} rows of {row_bytes}")
    if first + rows > params["matrices"] * params["rows"]:
        raise ValueError(f"rows from {first} to {first + rows} are past the tensor's end")
    whole = first, params["rows"], params["lines"], params["block_rows"]
    window_place = 0, _ALL, 0, 1
    scales, place = params.get("weight_scale"), whole
    if scales is None:
        scales, place = _flat(blocks["weight_scale"].reshape(-1)), window_place
        if scales.size < rows * groups * params["scale_bytes"]:
            raise ValueError(f"weight_scale: {scales.size} bytes for {rows} x {groups}")
    zeros, zero_place = params.get("weight_zero_point"), whole
    if params["zeros"] == NONE:
        zeros = scales
    elif zeros is None:
        zeros, zero_place = _flat(blocks["weight_zero_point"].reshape(-1)), window_place
        need = rows * groups
        if params["zeros"] != PLAIN:
            need = _words(rows, params) * groups * 4
        if zeros.size < need:
            raise ValueError(f"weight_zero_point: {zeros.size} bytes for {rows} x {groups}")
    return scales, zeros, place, zero_place


def _flat(array: Any) -> Any:
    """Read-only, so that kernels are compiled once an output dtype."""
    view = array.view()
    view.flags.writeable = False
    return view


@jit
def _packed(
    payload: Any, row_bytes: Any, bits: Any, padded: Any, scales: Any, kind: Any, place: Any,
    groups: Any, zeros: Any, zero_kind: Any, zero_place: Any, zero_words: Any,
    starts: Any, index: Any, aligned: Any, inputs: Any, half: Any, out: Any,
) -> None:  # fmt: skip
    each = 32 // bits
    codes = np.empty((row_bytes // 4 * each if padded else inputs) // 32 * 32 + 64, np.uint8)
    used = row_bytes if padded else -(-inputs * bits // 8)
    middle = np.float32(1 << (bits - 1))
    scale, zero = np.empty(groups, np.float32), np.full(groups, middle, np.float32)
    gathered = index.shape[0]
    each_scale, each_zero = np.empty(gathered, np.float32), np.empty(gathered, np.float32)
    runs = starts.shape[0] - 1
    for row in range(out.shape[0] // inputs):
        stream = payload[row * row_bytes : row * row_bytes + used]
        if padded:
            spread_padded(stream, bits, codes)
            stream = codes
        elif bits != 8:
            spread(stream, bits, codes)
            stream = codes
        read_scale_line(scales, kind, line_of(place, row), scale)
        if zero_kind == PLAIN:
            read_zero_line(zeros, line_of(zero_place, row), zero)
            for g in range(groups):
                zero[g] += middle
        elif zero_kind != NONE:
            at = zero_place[0] + row
            matrix = at // zero_place[1]
            column = zeros[matrix * zero_words * groups * 4 :]
            unpack_zero_line(column, bits, zero_kind == PADDED, at % zero_place[1], zero)
        to = row * inputs
        if gathered:
            for i in range(inputs):
                each_scale[i] = scale[index[i]]
                each_zero[i] = zero[index[i]]
            scale_each(stream[:inputs], each_zero, each_scale, half, out[to:])
        elif half or not aligned:
            scale_runs(stream, 0, starts, 0, runs, zero, scale, half, out, to)
        elif bits <= 4:
            look_up_runs(stream, 0, starts, 0, runs, zero, scale, out, to)
        else:
            multiply_runs(stream, 0, starts, 0, runs, zero, scale, out, to)


@jit
def _int8(
    codes: Any, scales: Any, kind: Any, place: Any, groups: Any, zeros: Any, asymmetric: Any,
    starts: Any, index: Any, inputs: Any, half: Any, out: Any,
) -> None:  # fmt: skip
    scale, zero = np.empty(groups, np.float32), np.zeros(groups, np.float32)
    for row in range(out.shape[0] // inputs):
        line = line_of(place, row)
        read_scale_line(scales, kind, line, scale)
        if asymmetric:
            read_zero_line(zeros, line, zero)
        to = row * inputs
        for i in range(index.shape[0]):
            value = (np.float32(np.int8(codes[to + i])) - zero[index[i]]) * scale[index[i]]
            put(out, to + i, to_half(value) if half else value)
        for k in range(starts.shape[0] - 1):
            s, z = scale[k], zero[k]
            begin, end = to + starts[k], to + starts[k + 1]
            if half or end - begin < _HALF_STEP:
                for i in range(begin, end):
                    value = (np.float32(np.int8(codes[i])) - z) * s
                    put(out, i, to_half(value) if half else value)
            elif end - begin < _STEP:
                for at in (begin, end - _HALF_STEP):
                    store(out, at, (to_f32(signed(load16(codes, at))) - z) * s)
            else:
                for at in range(begin, end, _STEP):
                    at = min(at, end - _STEP)  # the last step goes over some elements again
                    store(out, at, (to_f32(signed(load32(codes, at))) - z) * s)


@jit
def _narrow(out: Any) -> None:
    """float32 rounded to BF16 and back."""
    for i in range(out.shape[0]):
        out[i] = as_f32(u32(u32(bf16_bits(out[i])) << u32(16)))
