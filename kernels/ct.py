"""compressed-tensors' integers: packed words of 1 to 8 bits, and plain INT8.

| encoding | codes | zero points, if there are any |
|---|---|---|
| `ct-packed` | I32 `[rows, words]`, packed along each row | I32, packed *down* the rows, or I8 |
| `ct-int8` | I8 `[rows, columns]` | I8; ModelSlim: F32, F16 or BF16 |

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
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import RUNS, are_whole, spread, to_half, way_of
from anamnesis.kernels._ct_lines import (
    DENSE,
    F32,
    KINDS,
    NONE,
    PADDED,
    PLAIN,
    line_of,
    read_scale_line,
    read_zero_line,
    scale_scattered,
    spread_padded,
    unpack_zero_line,
)
from anamnesis.kernels._jit import as_f32, bf16_bits, jit, put, variants
from anamnesis.kernels._packed import runs_of
from anamnesis.kernels._vector import load16, load32, signed, store, to_f32
from anamnesis.kernels.bits import u32

_ZEROS = {"": NONE, "plain": PLAIN, "float": PLAIN, "dense": DENSE, "padded": PADDED}
_INT8_ZEROS, _FLOAT_ZEROS = 1, 2  # of plain INT8: the second and on, by the kind of float
_STEP, _HALF_STEP = 32, 16
_ALL = 1 << 62  # more rows than there are
_SCALE, _ZERO = "weight_scale", "weight_zero_point"


class _Bound(NamedTuple):
    """What does not change from window to window; whole grids are flat bytes, or None."""

    inputs: int
    unit_rows: int
    rows: int  # of all matrices
    row_bytes: int
    scale_bytes: int  # a row's
    groups: int
    packing: tuple[int, bool] | None  # of windowed zero points
    scales: Any
    zeros: Any
    asymmetric: int  # 0 for no zero points, else as `_INT8_ZEROS` says
    zero_bytes: int  # of a zero point that is not packed
    narrow: bool
    scattered: bool
    constants: tuple[Any, ...]  # of the kernel for packed codes
    settings: tuple[Any, ...]  # its arguments


def prepare(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> dict[str, Any]:
    """What the kernels take besides a window, from the tensor's parameters and whole components.

    `scalars`: `in_features`, `rows` of a matrix, `matrices`, `unit_rows` (rows a unit), `groups`
    and `group_size` of a row, `lines` of the grid a matrix (0: one for all) and `block_rows`, which
    a line covers, `zero` ("", plain, dense, padded, or float with `zero_dtype`), `scale_dtype`,
    `rounding`, and of packed codes `bits`, `padded` and, where they fill no words, the `row_bytes`
    of a row. `wholes`: `weight_scale` and
    `weight_zero_point` unless windowed, and `weight_g_idx`. Raises ValueError for grids and groups
    that do not cover the tensor.
    """
    inputs, groups, dtype = scalars["in_features"], scalars["groups"], scalars["scale_dtype"]
    rows, lines, block = scalars["rows"], scalars["lines"], scalars["block_rows"]
    if max(1, lines) * block < rows or min(groups, block) < 1:
        raise ValueError(f"{lines} lines of {block} rows do not cover {rows:,} rows")
    index = _groups_of(scalars, wholes)
    starts, of_run = runs_of(index, max(1, inputs))
    scattered = bool((of_run != np.arange(of_run.size)).any())
    reference, zero = scalars["rounding"] == "reference", _ZEROS[scalars["zero"]]
    half, kind = reference and dtype == "F16", KINDS[dtype]
    bits, padded = scalars["bits"], bool(scalars.get("padded")) and 32 % scalars["bits"] != 0
    zero_words = _words(rows, bits, padded)
    cells = groups * (scalars["matrices"] * lines if lines else 1)
    packed_cells = groups * scalars["matrices"] * zero_words
    scales = _whole(wholes, _SCALE, cells)
    zeros = _whole(wholes, _ZERO, cells if zero == PLAIN else packed_cells)
    place = (_ALL, 0, 1) if scales is None else (rows, lines, block)
    columns = index.astype(np.int32) if scattered else starts
    settings: tuple[Any, ...] = (kind, place, groups, columns, inputs)
    row_bytes = inputs
    constants: tuple[Any, ...] = ()
    if "padded" in scalars:
        row_bytes = scalars.get("row_bytes", 4 * _words(inputs, bits, padded))
        stored = _ALL if zeros is None else rows, zero_words
        settings = (*settings, row_bytes, zero, *stored)
        way = half if scattered else way_of(bits, are_whole(starts), half)
        constants = (bits, padded, way)
    else:
        settings = (*settings, half)
    bound = _Bound(
        inputs=max(1, inputs),
        unit_rows=scalars["unit_rows"],
        rows=scalars["matrices"] * rows,
        row_bytes=row_bytes,
        scale_bytes=groups * (4 if kind == F32 else 2),
        groups=groups,
        packing=(bits, padded) if zero > PLAIN else None,
        scales=scales,
        zeros=zeros,
        asymmetric=_zeros_of(scalars),
        zero_bytes=4 if scalars.get("zero_dtype") == "F32" else 2 if "zero_dtype" in scalars else 1,
        narrow=reference and dtype == "BF16",
        scattered=scattered,
        constants=constants,
        settings=settings,
    )
    return {"bound": bound}


def _zeros_of(scalars: Mapping[str, Any]) -> int:
    """How zero points of INT8 are stored, for its kernels."""
    if scalars["zero"] == "float":
        return _FLOAT_ZEROS + KINDS[scalars["zero_dtype"]]
    return _INT8_ZEROS if scalars["zero"] else 0


def _groups_of(scalars: Mapping[str, Any], wholes: Mapping[str, Any]) -> Any:
    """The group of each column."""
    inputs, groups = scalars["in_features"], scalars["groups"]
    index = np.arange(inputs, dtype=np.int64) // max(1, scalars["group_size"])
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
    return index


def _words(count: int, bits: int, padded: bool) -> int:
    """Words that a stream of `count` codes takes."""
    return -(-count // (32 // bits)) if padded else -(-count * bits // 32)


def _whole(wholes: Mapping[str, Any], role: str, count: int) -> Any:
    """A component's bytes, or None when it is windowed."""
    if role not in wholes:
        return None
    array = wholes[role].array
    if array.size != count:
        raise ValueError(f"{role}: {array.size:,} numbers where {count:,} are needed")
    return _flat(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def decode_packed(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Rows of `ct-packed`: units of `unit_rows` rows, uint8 `[units, bytes]` of each component.

    `params` holds what `prepare` made. Raises ValueError for arrays that do not fit one another.
    """
    bound = params["bound"]
    payload = _flat(blocks["weight_packed"])
    scales, zeros, first, first_zero = _fit(blocks, bound, window, payload, out)
    make = _packed_scattered if bound.scattered else _packed
    kernel = make(*bound.constants)
    kernel(*(payload, scales, zeros, first, first_zero, *bound.settings, out))
    if bound.narrow and out.dtype == np.float32:
        _narrow(out)


def decode_int8(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Rows of `ct-int8`; as `decode_packed`."""
    bound = params["bound"]
    payload = _flat(blocks["weight"])
    scales, zeros, first, _ = _fit(blocks, bound, window, payload, out)
    kernel = _int8_scattered if bound.scattered else _int8
    kernel(*(payload, scales, zeros, bound.asymmetric, first, *bound.settings, out))
    if bound.narrow and out.dtype == np.float32:
        _narrow(out)


def _fit(
    blocks: Mapping[str, Any], bound: _Bound, window: Window, payload: Any, out: Any
) -> tuple[Any, Any, int, int]:
    """Scales and zero points as flat bytes, and the row that each of them begins with."""
    inputs, unit_rows, most, row_bytes, scale_bytes, groups, packing, scales, zeros, asym = bound[
        :10
    ]
    start, stop = window
    rows, rest = divmod(out.shape[0], inputs)
    if rest or not (stop - start - 1) * unit_rows < rows <= (stop - start) * unit_rows:
        raise ValueError(f"out {out.shape} for units {window} of {unit_rows} x {inputs}")
    if payload.shape[0] < rows * row_bytes:
        raise ValueError(f"payload: {payload.shape[0]} bytes for {rows} rows of {row_bytes}")
    begin = start * unit_rows
    if begin + rows > most:
        raise ValueError(f"rows from {begin} to {begin + rows} are past the tensor's end")
    first = first_zero = begin
    if scales is None:
        scales, first = _flat(blocks[_SCALE]), 0
        if scales.shape[0] < rows * scale_bytes:
            raise ValueError(f"weight_scale: {scales.shape[0]} bytes for {rows} rows")
    if not asym:
        zeros = scales
    elif zeros is None:
        zeros, first_zero = _flat(blocks[_ZERO]), 0
        each = groups * bound.zero_bytes
        need = 4 * groups * _words(rows, *packing) if packing else each * rows
        if zeros.shape[0] < need:
            raise ValueError(f"weight_zero_point: {zeros.shape[0]} bytes for {rows} rows")
    return scales, zeros, first, first_zero


def _flat(array: Any) -> Any:
    """Read-only, so that kernels are compiled once an output dtype."""
    view = array.reshape(-1)
    view.setflags(write=False)
    return view


@jit
def _read_lines(
    scales: Any, zeros: Any, row: Any, zero_row: Any, kind: Any, place: Any, bits: Any,
    zero_kind: Any, zero_rows: Any, zero_words: Any, scale: Any, zero: Any,
) -> None:  # fmt: skip
    """Scales and zero points of a row of packed codes."""
    groups, middle = scale.shape[0], np.float32(1 << (bits - 1))
    read_scale_line(scales, kind, line_of(place, row), scale)
    if zero_kind == PLAIN:
        read_zero_line(zeros, line_of(place, row), zero)
        for g in range(groups):
            zero[g] += middle
    elif zero_kind == NONE:
        zero[:] = middle
    else:
        column = zeros[zero_row // zero_rows * zero_words * groups * 4 :]
        unpack_zero_line(column, bits, zero_kind == PADDED, zero_row % zero_rows, zero)


@variants
def _packed(bits: int, padded: bool, way: str) -> Any:
    """Packed codes where columns of one group are a run; `way` is of `way_of`."""
    to_bytes, decode = (spread_padded if padded else spread)(bits), RUNS[way]

    def rows_of(
        payload: Any, scales: Any, zeros: Any, first: Any, first_zero: Any, kind: Any, place: Any,
        groups: Any, starts: Any, inputs: Any, row_bytes: Any, zero_kind: Any, zero_rows: Any,
        zero_words: Any, out: Any,
    ) -> None:  # fmt: skip
        codes = np.empty(row_bytes * 8 // bits // 32 * 32 + 64, np.uint8)
        scale, zero = np.empty(groups, np.float32), np.empty(groups, np.float32)
        runs = starts.shape[0] - 1
        for row in range(out.shape[0] // inputs):
            stream = payload[row * row_bytes : row * row_bytes + row_bytes]
            if bits != 8:
                to_bytes(stream, codes)
                stream = codes
            _read_lines(
                scales, zeros, first + row, first_zero + row, kind, place, bits,
                zero_kind, zero_rows, zero_words, scale, zero,
            )  # fmt: skip
            decode(stream, 0, starts, 0, runs, zero, scale, out, row * inputs)

    return rows_of


@variants
def _packed_scattered(bits: int, padded: bool, half: bool) -> Any:
    """As `_packed`, column i of group `index[i]`."""
    to_bytes = (spread_padded if padded else spread)(bits)

    def rows_of(
        payload: Any, scales: Any, zeros: Any, first: Any, first_zero: Any, kind: Any, place: Any,
        groups: Any, index: Any, inputs: Any, row_bytes: Any, zero_kind: Any, zero_rows: Any,
        zero_words: Any, out: Any,
    ) -> None:  # fmt: skip
        codes = np.empty(row_bytes * 8 // bits // 32 * 32 + 64, np.uint8)
        scale, zero = np.empty(groups, np.float32), np.empty(groups, np.float32)
        words = np.empty(inputs + groups, np.uint32)
        narrow = kind != F32 and zero_kind != PLAIN
        for row in range(out.shape[0] // inputs):
            to_bytes(payload[row * row_bytes : row * row_bytes + row_bytes], codes)
            _read_lines(
                scales, zeros, first + row, first_zero + row, kind, place, bits,
                zero_kind, zero_rows, zero_words, scale, zero,
            )  # fmt: skip
            here = out[row * inputs : row * inputs + inputs]
            scale_scattered(codes, index, zero, scale, narrow, half, words, here)

    return rows_of


@jit
def _int8(
    codes: Any, scales: Any, zeros: Any, asymmetric: Any, first: Any, kind: Any, place: Any,
    groups: Any, starts: Any, inputs: Any, half: Any, out: Any,
) -> None:  # fmt: skip
    scale, zero = np.empty(groups, np.float32), np.zeros(groups, np.float32)
    for row in range(out.shape[0] // inputs):
        line, to = line_of(place, first + row), row * inputs
        read_scale_line(scales, kind, line, scale)
        if asymmetric == _INT8_ZEROS:
            read_zero_line(zeros, line, zero)
        elif asymmetric:
            read_scale_line(zeros, asymmetric - _FLOAT_ZEROS, line, zero)
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
def _int8_scattered(
    codes: Any, scales: Any, zeros: Any, asymmetric: Any, first: Any, kind: Any, place: Any,
    groups: Any, index: Any, inputs: Any, half: Any, out: Any,
) -> None:  # fmt: skip
    """As `_int8`, column i of group `index[i]`: codes and zero points are made unsigned."""
    scale, zero = np.empty(groups, np.float32), np.zeros(groups, np.float32)
    words, unsigned = np.empty(inputs + groups, np.uint32), np.empty(inputs, np.uint8)
    for row in range(out.shape[0] // inputs):
        line, to = line_of(place, first + row), row * inputs
        read_scale_line(scales, kind, line, scale)
        if asymmetric == _INT8_ZEROS:
            read_zero_line(zeros, line, zero)
        elif asymmetric:
            read_scale_line(zeros, asymmetric - _FLOAT_ZEROS, line, zero)
        for g in range(groups):
            zero[g] += np.float32(0x80)
        for i in range(inputs):
            unsigned[i] = codes[to + i] ^ np.uint8(0x80)
        here = out[to : to + inputs]
        narrow = kind != F32 and asymmetric <= _INT8_ZEROS
        scale_scattered(unsigned, index, zero, scale, narrow, half, words, here)
        if not asymmetric:
            zero[:] = 0


@jit
def _narrow(out: Any) -> None:
    """float32 rounded to BF16 and back."""
    for i in range(out.shape[0]):
        out[i] = as_f32(u32(u32(bf16_bits(out[i])) << u32(16)))
