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

from dataclasses import dataclass
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine, Groups, check_index, decode_rows, index_of, numbers
from anamnesis.kernels._codes import bits_of, read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

_SCALE, _ZERO = "weight_scale", "weight_zero_point"
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_unpack = kernel("_codes:unpack_zeros")


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the scale and the zero point of a row are in grids of a line for each `block` rows."""

    per: int  # rows of a matrix
    lines: int  # a matrix has of them; 0: one for all
    block: int

    def of(self, first: int, rows: int) -> Array:
        """The lines of some rows."""
        # Rows of stacked matrices follow one another; a grid has `lines` for each.
        row = np.arange(first, first + rows)
        return row // self.per * self.lines + row % self.per // self.block


@dataclass(frozen=True, slots=True)
class _Stored:
    """Numbers of `width` bytes, one a group; `whole` is None when they are windowed."""

    role: str
    whole: Any
    groups: int
    width: int

    def lines(self, blocks: Views, grid: _Grid, first: int, rows: int) -> Array:
        """Those of each row, as uint8 `[rows, bytes]`."""
        line = self.groups * self.width
        if self.whole is not None:
            # A line of the grid is for all rows of a block.
            return self.whole.reshape(-1, line)[grid.of(first, rows)]
        flat = blocks[self.role].reshape(-1)
        if flat.shape[0] < rows * line:
            raise ValueError(f"{self.role}: {flat.shape[0]} bytes for {rows} rows")
        return flat[: rows * line].reshape(rows, line)


@dataclass(frozen=True, slots=True)
class _Rows:
    """What does not change from window to window."""

    affine: Affine
    groups: Groups
    inputs: int
    unit_rows: int
    rows: int  # of all matrices
    row_bytes: int
    grid: _Grid
    scales: _Stored
    zeros: _Stored
    zero: str  # how zero points are stored: "", plain, dense, padded, or the dtype of floats


def prepare(scalars: Params, wholes: Wholes, signed: bool = False) -> dict[str, Any]:
    """What the kernels take besides a window, from the tensor's parameters and whole components.

    `scalars`: `in_features`, `rows` of a matrix, `matrices`, `unit_rows` (rows a unit), `groups`
    and `group_size` of a row, `lines` of the grid a matrix (0: one for all) and `block_rows`, which
    a line covers, `zero` ("", plain, dense, padded, or float with `zero_dtype`), `scale_dtype`,
    `rounding`, and of packed codes `bits`, `padded` and, where they fill no words, the `row_bytes`
    of a row, which are `signed` or have had half of their range added. `wholes`: `weight_scale` and
    `weight_zero_point` unless windowed, and `weight_g_idx`. Raises ValueError for grids and groups
    that do not cover the tensor.
    """
    inputs, groups, bits = scalars["in_features"], scalars["groups"], scalars["bits"]
    grid = _Grid(scalars["rows"], scalars["lines"], scalars["block_rows"])
    if max(1, grid.lines) * grid.block < grid.per or min(groups, grid.block) < 1:
        raise ValueError(f"{grid.lines} lines of {grid.block} rows do not cover {grid.per:,} rows")
    packed, matrices = "padded" in scalars, scalars["matrices"]
    # Where codes fill words there is nothing to tell apart.
    padded = bool(scalars.get("padded")) and 32 % bits != 0
    zero = scalars["zero_dtype"] if scalars["zero"] == "float" else scalars["zero"]
    affine = Affine.of(
        scalars,
        narrow=("F16", "BF16"),
        order="padded" if padded else "dense",
        signed=signed or not packed,
        small=zero != "plain" if packed else zero not in _WIDTHS,
    )
    cells = groups * (matrices * grid.lines if grid.lines else 1)
    row_bytes = scalars.get("row_bytes", 4 * _words(inputs, bits, padded)) if packed else inputs
    zero_cells = groups * matrices * _words(grid.per, bits, padded)
    rows = _Rows(
        affine,
        _groups_of(scalars, wholes),
        inputs=max(1, inputs),
        unit_rows=scalars["unit_rows"],
        rows=matrices * grid.per,
        row_bytes=row_bytes,
        grid=grid,
        scales=_Stored(_SCALE, _whole(wholes, _SCALE, cells), groups, _WIDTHS[affine.scale_dtype]),
        zeros=_Stored(
            _ZERO,
            _whole(wholes, _ZERO, zero_cells if zero in ("dense", "padded") else cells),
            groups,
            _WIDTHS.get(zero, 1),
        ),
        zero=zero,
    )
    return {"rows_of": rows}


def _groups_of(scalars: Params, wholes: Wholes) -> Groups:
    """The groups of the columns."""
    inputs, groups = scalars["in_features"], scalars["groups"]
    index = index_of(inputs, max(1, scalars["group_size"]))
    if "weight_g_idx" in wholes:
        stored = wholes["weight_g_idx"].array.reshape(-1).astype(np.int64)
        if stored.shape != (inputs,):
            raise ValueError(f"weight_g_idx: {stored.size:,} entries for {inputs:,} columns")
        # A `g_idx` of -1 says that there is none.
        if not (stored == -1).any():
            index = stored
    check_index(index, groups, "weight_g_idx", "column")
    found = Groups.of(index, inputs)
    # Groups out of order, or in more than one run.
    if (found.of_run != np.arange(found.of_run.size)).any():
        return Groups(found.starts, found.of_run, index.astype(np.int32))
    return found


def _words(count: int, bits: int, padded: bool) -> int:
    """Words that a stream of `count` codes takes."""
    return -(-count // (32 // bits)) if padded else -(-count * bits // 32)


def _whole(wholes: Wholes, role: str, count: int) -> Bytes | None:
    """A component's bytes, or None when it is windowed."""
    if role not in wholes:
        return None
    array = wholes[role].array
    if array.size != count:
        raise ValueError(f"{role}: {array.size:,} numbers where {count:,} are needed")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def decode_packed(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows of `ct-packed`: units of `unit_rows` rows, uint8 `[units, bytes]` of each component.

    `params` holds what `prepare` made. Raises ValueError for arrays that do not fit one another.
    """
    _decode(blocks["weight_packed"], blocks, params["rows_of"], window, out)


def decode_int8(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows of `ct-int8`; as `decode_packed`."""
    _decode(blocks["weight"], blocks, params["rows_of"], window, out)


def _decode(payload: Array, blocks: Views, of: _Rows, window: Window, out: Array) -> None:
    rows, rest = divmod(out.shape[0], of.inputs)
    units, first = window.stop - window.start, window.start * of.unit_rows
    if rest or not (units - 1) * of.unit_rows < rows <= units * of.unit_rows:
        raise ValueError(f"out {out.shape} for units {window} of {of.unit_rows} x {of.inputs}")
    if payload.size < rows * of.row_bytes:
        raise ValueError(f"payload: {payload.size} bytes for {rows} rows of {of.row_bytes}")
    if first + rows > of.rows:
        raise ValueError(f"rows from {first} to {first + rows} are past the tensor's end")
    streams = payload.reshape(-1)[: rows * of.row_bytes].reshape(rows, of.row_bytes)
    scales = bits_of(of.affine.scale_dtype, of.scales.lines(blocks, of.grid, first, rows))
    zeros = _zeros(blocks, of, first, rows)
    if of.groups.index is not None and of.affine.signed:
        # Signed codes are gathered as bytes that have 128 added.
        zeros += np.float32(128)
    decode_rows(of.affine, of.groups, streams, numbers(zeros), scales, out)


def _zeros(blocks: Views, of: _Rows, first: int, rows: int) -> Array:
    """Zero points of rows, float32 `[rows, groups]`, or one line for all."""
    groups, middle = of.scales.groups, np.float32(of.affine.middle)
    if not of.zero:
        return np.full((1, groups), middle)
    if of.zero in _WIDTHS:
        return read_scales(of.zero, of.zeros.lines(blocks, of.grid, first, rows))
    if of.zero == "plain":
        # Bytes in two's complement; codes have had half of their range added.
        stored = of.zeros.lines(blocks, of.grid, first, rows).view(np.int8)
        return stored.astype(np.float32) + middle
    bits, padded, raw = of.affine.bits, of.zero == "padded", of.zeros.whole
    place = first, of.grid.per, _words(of.grid.per, bits, padded)
    if raw is None:
        # A window's own words begin with its first row.
        raw, place = blocks[_ZERO].reshape(-1), (0, rows, 0)
        if raw.shape[0] < 4 * groups * _words(rows, bits, padded):
            raise ValueError(f"weight_zero_point: {raw.shape[0]} bytes for {rows} rows")
    zeros = np.empty((rows, groups), np.float32)
    _unpack(raw.view(np.uint32), bits, padded, place, zeros)
    return zeros
