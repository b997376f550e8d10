"""Codes of `DequantizeLinear`, `GatherBlockQuantized`, and of `MatMulNBits` with float zero points.

A tensor of any rank is taken for a matrix whose scales lie on a grid (`kernels/onnx_linear.py`):

| scale | rows | columns | a line of the grid |
|---|---|---|---|
| one number | all but the last dimension | the last | all rows |
| along the first dimension that is not 1 | that dimension | what is behind it | a row |
| along another | what is before it | that and what is behind | all rows, a group a step of it |
| in blocks along the last dimension | all but the last | the last | a row |
| in blocks along another | before it, times it | what is behind | a block of rows |
| for columns of each matrix (`stacked`) | all but the last | the last | a matrix |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import WHOLE, Contiguous, Placement
from anamnesis.readers.schemes._errors import misfit, missing, unsupported, where
from anamnesis.readers.schemes.base import Ledger

SCALES = ("F32", "F16", "BF16", "F8_E8M0")
KINDS = (
    *("F4", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "I16", "I2", "I32", "I4", "I8"),
    *("U16", "U2", "U4", "U8"),
)
_IMPLEMENTED = "codes of " + ", ".join(KINDS)


@dataclass(frozen=True, slots=True)
class Grid:
    """How a matrix of `rows` (of each of some matrices) by `columns` is scaled."""

    all_rows: int
    columns: int
    rows: int  # of a matrix
    lines: int  # of the grid, a matrix; 0: one for all
    groups: int
    size: int
    block_rows: int = 1

    @property
    def grid_lines(self) -> int:
        return self.all_rows // max(1, self.rows) * self.lines if self.lines else 1

    @property
    def by_rows(self) -> bool:
        return bool(self.lines) and self.block_rows == 1 and self.lines == self.rows


def grid_of(dims: tuple[int, ...], scale: tuple[int, ...], axis: int, block: int) -> Grid | None:
    """The grid of a scale of shape `scale`; None where it does not fit."""
    columns = dims[-1] if dims else 1
    rows = math.prod(dims[:-1])
    if not block and math.prod(scale) == 1 and len(scale) < 2:
        return Grid(rows, columns, max(1, rows), 0, 1, max(1, columns))
    axis = axis + len(dims) if axis < 0 else axis
    if not 0 <= axis < len(dims):
        return None
    outer, here, inner = math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])
    if not block:
        if scale != (here,):
            return None
        if outer == 1:
            return Grid(here, inner, here, here, 1, max(1, inner))
        return Grid(outer, here * inner, max(1, outer), 0, here, max(1, inner))
    blocks = -(-here // block)
    if scale != (*dims[:axis], blocks, *dims[axis + 1 :]):
        return None
    if axis == len(dims) - 1:
        return Grid(outer, here, max(1, outer), outer, blocks, max(1, min(block, here)))
    return Grid(outer * here, inner, max(1, here), blocks, inner, 1, block)


def code_of(ledger: Ledger, stored: Stored) -> tuple[str, tuple[int, ...]]:
    """The kind of codes, and their shape: of packed ones, what the graph says."""
    values = ledger.container.values
    kind = values.get(f"{stored.name}.type")
    if kind is None:
        return stored.dtype, stored.shape
    dims = str(values[f"{stored.name}.dims"])
    return str(kind), tuple(map(int, dims.split(","))) if dims else ()


@dataclass(frozen=True, slots=True)
class Layer:
    """Codes of a `kind`, of the logical shape `dims`, and how they are scaled.

    With `packed`, zero points of fewer than eight bits begin anew in each row, and are half of the
    codes' range where there are none; with `floats` they are of the scales' dtype. Rows of codes
    may be stored longer than they are: `stored_columns`.
    """

    codes: Stored
    name: str
    dims: tuple[int, ...]
    kind: str
    grid: Grid
    scale: Stored
    packed: bool = False
    floats: bool = False
    stored_columns: int = 0
    bits: tuple[int, ...] = ()  # of scales that lie in no one place, which `scale` describes
    times: Stored | None = None  # of a bias: one number, that its scale is multiplied by
    zeros: Stored | None = None  # where no node names them
    scheme: str = "onnx-linear"


def linear(
    ledger: Ledger, codes: Stored, name: str, *, axis: int, block: int, bits: int = 0
) -> Tensor:
    """Codes with the scale and the zero points that their node names.

    `bits` of U8 codes that hold several (GatherBlockQuantized) pack the last dimension, and have a
    zero point of half their range. Raises FormatError for parts that do not fit.
    """
    kind, dims = code_of(ledger, codes)
    packed = bool(bits) and kind == "U8"
    if packed:
        kind = f"U{bits}"
        dims = (*dims[:-1], dims[-1] * 8 // bits) if dims else dims
    if kind not in KINDS:
        by = ledger.container.values.get(f"{codes.name}.by")
        raise unsupported(codes, f"{kind} codes of {by}", _IMPLEMENTED)
    scale, listed = _scale(ledger, codes)
    shape = scale.shape
    if ledger.container.values.get(f"{codes.name}.stacked") and len(dims) == 3:
        block, shape = max(1, dims[1]), (*shape[:1], 1, *shape[1:])
    grid = grid_of(dims, shape, axis, block) if block >= 0 else None
    if scale.dtype not in SCALES or grid is None:
        blocks = f", or a block of {block}" if block else ""
        raise misfit(
            scale,
            f"{', '.join(SCALES)}: one, or one a step of axis {axis}{blocks}, for {codes.name!r} "
            f"of {list(dims)}",
        )
    times = None
    if _name(ledger, codes, "times"):
        times = _part(ledger, codes, "times")
        if times.dtype != "F32" or scale.dtype != "F32" or math.prod(times.shape) != 1:
            raise misfit(times, f"one number of F32, as {scale.name!r:.200} has to be of F32")
    layer = Layer(codes, name, dims, kind, grid, scale, packed, bits=listed, times=times)
    return assemble(ledger, layer)


def assemble(ledger: Ledger, layer: Layer) -> Tensor:
    """The tensor of a layer; raises FormatError for zero points that do not fit."""
    grid, kind, scale = layer.grid, layer.kind, layer.scale
    stored_columns = layer.stored_columns or grid.columns
    bits = _bits(kind)
    unit_rows = 8 // math.gcd(8, max(1, stored_columns * bits))  # so that units are whole bytes
    codes = Component("codes", layer.codes, Contiguous(unit_rows * stored_columns * bits or 8))
    line_bits = unit_rows * grid.groups * DTYPES[scale.dtype].bits
    placed = Contiguous(line_bits) if grid.by_rows else WHOLE
    scales = () if layer.bits else (Component("scale", scale, placed),)
    about, zeros = _zeros(ledger, layer, unit_rows)
    times = () if layer.times is None else (Component("times", layer.times),)
    return Tensor(
        name=layer.name,
        shape=layer.dims,
        scheme=layer.scheme,
        encoding="onnx-linear",
        components=(codes, *scales, *zeros, *times),
        unit_elems=max(1, unit_rows * grid.columns),
        params={
            **about,
            "kind": kind,
            "columns": grid.columns,
            "stored_columns": stored_columns,
            "unit_rows": unit_rows,
            "rows": grid.rows,
            "lines": grid.lines,
            "grid_lines": grid.grid_lines,
            "groups": grid.groups,
            "size": grid.size,
            "block_rows": grid.block_rows,
            "scale_dtype": scale.dtype,
            "scale_bits": layer.bits,
            "rounding": ledger.options.rounding,
        },
    )


def _zeros(
    ledger: Ledger, layer: Layer, unit_rows: int
) -> tuple[dict[str, object], tuple[Component, ...]]:
    """Parameters of zero points, and their component where they are stored as one."""
    values, grid, kind = ledger.container.values, layer.grid, layer.kind
    about: dict[str, object] = {"zero_kind": "", "zero_row_bytes": 0, "zero_points": ()}
    name, count = _name(ledger, layer.codes, "zero_points"), grid.grid_lines * grid.groups
    if layer.zeros is not None:
        name = layer.zeros.name
    if not name:
        half = (1 << (_bits(kind) - 1),) if layer.packed else ()
        return {**about, "zero_points": half}, ()
    numbers = values.get(f"{name}.numbers")
    if numbers is not None:
        if len(numbers) != count or values[f"{name}.type"] != kind:
            raise FormatError(
                f"{where(layer.codes)}: {len(numbers):,} zero points {name!r:.200} of "
                f"{values[f'{name}.type']}; allowed are {count:,} of {kind}"
            )
        return {**about, "zero_points": tuple(numbers)}, ()
    stored = layer.zeros or _part(ledger, layer.codes, "zero_points")
    found, dims = code_of(ledger, stored)
    allowed: tuple[str, ...] = (layer.scale.dtype,) if layer.floats else (kind,)
    if layer.zeros is not None:
        allowed = (kind, "I32", "I64")
    row_bytes = -(-grid.groups * _bits(kind) // 8) if layer.packed and grid.by_rows else 0
    if row_bytes and found == "U8" and math.prod(dims) == grid.grid_lines * row_bytes:
        found = kind
    elif layer.packed and found == "U8" and 8 * math.prod(dims) == count * _bits(kind):
        found, row_bytes = kind, 0  # one a row, packed over rows (QMoE)
    elif math.prod(dims) == count and found in allowed:
        row_bytes = 0
    else:
        raise misfit(stored, f"{count:,} of {' or '.join(allowed)}")
    placed: Placement = WHOLE if not grid.by_rows else Contiguous(unit_rows * 8 * row_bytes)
    if grid.by_rows and not row_bytes:
        bits = unit_rows * grid.groups * _bits(found)
        placed = Contiguous(bits) if bits % 8 == 0 else WHOLE
    about |= {"zero_kind": found, "zero_row_bytes": row_bytes}
    return about, (Component("zero_point", stored, placed),)


def _scale(ledger: Ledger, codes: Stored) -> tuple[Stored, tuple[int, ...]]:
    """The scale of a node, and its bits where they are listed in the message one by one."""
    name = _name(ledger, codes, "scales")
    listed = ledger.container.values.get(f"{name}.numbers")
    if listed is None:
        return _part(ledger, codes, "scales"), ()
    like = replace(codes, name=name)
    dtype, dims = code_of(ledger, like)
    return replace(like, dtype=dtype, shape=dims), tuple(listed)


def _part(ledger: Ledger, codes: Stored, key: str) -> Stored:
    """What a node takes beside its codes, which several may share."""
    name = _name(ledger, codes, key)
    found = ledger.container.stored.get(name)
    if found is None and name in ledger.container.unread:
        raise unsupported(codes, f"{key} {name!r:.200} of a kind that was left out", _IMPLEMENTED)
    if found is None:
        raise missing(ledger, codes, name, why="its node takes it")
    return found


def _bits(kind: str) -> int:
    return DTYPES[kind].bits if kind in DTYPES else int(kind[1:])


def _name(ledger: Ledger, codes: Stored, key: str) -> str:
    return str(ledger.container.values.get(f"{codes.name}.{key}") or "")
