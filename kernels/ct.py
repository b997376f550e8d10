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
from anamnesis.kernels._codes import are_whole, way_of
from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels._packed import runs_of

F32, BF16, F16 = 0, 1, 2  # how scales are stored
KINDS = {"F32": F32, "BF16": BF16, "F16": F16}
NONE, PLAIN, DENSE, PADDED = 0, 1, 2, 3  # how zero points are stored
_ZEROS = {"": NONE, "plain": PLAIN, "float": PLAIN, "dense": DENSE, "padded": PADDED}
INT8_ZEROS, FLOAT_ZEROS = 1, 2  # of plain INT8: the second and on, by the kind of float
_ALL = 1 << 62  # more rows than there are
_SCALE, _ZERO = "weight_scale", "weight_zero_point"
_int8 = kernel("ct:int8")
_int8_scattered = kernel("ct:int8_scattered")
_narrow = kernel("ct:narrow_codes")
_packed = variants("ct:packed")
_packed_scattered = variants("ct:packed_scattered")


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
    asymmetric: int  # 0 for no zero points, else as `INT8_ZEROS` says
    zero_bytes: int  # of a zero point that is not packed
    narrow: bool
    scattered: bool
    constants: tuple[Any, ...]  # of the kernel for packed codes
    settings: tuple[Any, ...]  # its arguments
    codes: int  # room for those of a row


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
    settings: tuple[Any, ...] = (kind, place, columns, inputs)
    row_bytes = codes = inputs
    constants: tuple[Any, ...] = ()
    if "padded" in scalars:
        row_bytes = scalars.get("row_bytes", 4 * _words(inputs, bits, padded))
        stored = _ALL if zeros is None else rows, zero_words
        settings = (*settings, row_bytes, zero, *stored)
        codes = row_bytes * 8 // bits // 32 * 32 + 64
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
        codes=codes,
    )
    return {"bound": bound}


def _zeros_of(scalars: Mapping[str, Any]) -> int:
    """How zero points of INT8 are stored, for its kernels."""
    if scalars["zero"] == "float":
        return FLOAT_ZEROS + KINDS[scalars["zero_dtype"]]
    return INT8_ZEROS if scalars["zero"] else 0


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
    decode = make(*bound.constants)
    decode(*(payload, scales, zeros, first, first_zero, *bound.settings, _room(bound), out))
    if bound.narrow and out.dtype == np.float32:
        _narrow(out)


def decode_int8(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Rows of `ct-int8`; as `decode_packed`."""
    bound = params["bound"]
    payload = _flat(blocks["weight"])
    scales, zeros, first, _ = _fit(blocks, bound, window, payload, out)
    decode = _int8_scattered if bound.scattered else _int8
    decode(*(payload, scales, zeros, bound.asymmetric, first, *bound.settings, _room(bound), out))
    if bound.narrow and out.dtype == np.float32:
        _narrow(out)


def _room(bound: _Bound) -> tuple[Any, Any, Any, Any]:
    """Room for a row's codes, scales and zero points, and for `scale_scattered`."""
    numbers = np.empty((2, bound.groups), np.float32)
    words = np.empty(2 * bound.inputs + bound.groups if bound.scattered else 0, np.uint32)
    return np.empty(bound.codes, np.uint8), numbers[0], numbers[1], words


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
    return array.reshape(-1)
