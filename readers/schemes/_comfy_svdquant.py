"""ComfyUI's `svdquant_w4a4` and `awq_w4a16`: layouts and formulas are in `kernels/svdquant.py`.

Parts are named `X.proj_down`, as comfy-quants writes them, or `X.weight_proj_down`, as the state of
a tensor of comfy-kitchen has them. What the marks say besides the format: `layout` of
`kitchen_tile_packed_w4a4`, `lowrank_branch_input_basis` (only the raw input is implemented), and
`act_unsigned`: the layer adds a constant to its input, and the stored bias makes up for it. A layer
that does not would be wrong with it, so the bias that comes out is the one without it. Sources:
https://github.com/Comfy-Org/comfy-quants docs/formats/svdquant_w4a4_kitchen_tilepack.md,
awq_w4a16.md; PyPI comfy-kitchen 0.2.40 tensor/svdquant_w4a4.py, awq_w4a16.py.
"""

from __future__ import annotations

from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Placement, Strided
from anamnesis.readers.schemes._comfy import Mark
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

TILE_ROWS, _GROUP, _TILE_BYTES = 128, 64, (32, 128)
_FLOATS = ", ".join(SCALE_BITS)
NOTE = (
    "SVDQuant's layers are given as the weight that their input would be multiplied with as it is: "
    "codes over their smoothing, and the low-rank part added in float32; this is algebra, as no "
    "library multiplies so"
)


def svdquant(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    """The weight of a layer; its bias is entered as well where the input is moved.

    Raises FormatError for parts that are missing or do not fit, UnsupportedError for a low-rank
    part of another input than the layer's own.
    """
    basis = mark.options.get("lowrank_branch_input_basis", "raw")
    if basis != "raw":
        what = f"SVDQuant with a low-rank part of the input {basis!r:.40}"
        raise unsupported(codes, what, "the raw input")
    tiled, rows, columns = _shape(codes)
    groups = columns // _GROUP
    unit = TILE_ROWS if tiled else 1
    tiles = rows // unit
    scale = need(ledger, codes, f"{codes.name}_scale")
    _fit(scale, (tiles, groups, TILE_ROWS) if tiled else (groups, rows))
    smooth, down, up = (
        _part(ledger, codes, part) for part in ("smooth_factor", "proj_down", "proj_up")
    )
    _fit(smooth, (columns,))
    rank = down.shape[1] if len(down.shape) == 2 else 0
    if not rank:
        raise misfit(down, f"{_FLOATS} [{columns}, rank]")
    _fit(down, (columns, rank))
    _fit(up, (tiles, rank, TILE_ROWS) if tiled else (rows, rank))
    params = {
        "in_features": columns,
        "groups": groups,
        "tiled": tiled,
        "signed": True,
        "scale_dtype": scale.dtype,
    }
    components = (
        Component("codes", codes, Contiguous(unit * 4 * columns)),
        Component("scale", scale, _lines(scale, unit, groups, rows)),
        Component("smooth", smooth),
    )
    bias = ledger.get(f"{codes.name.removesuffix('weight')}bias")
    if mark.options.get("act_unsigned"):
        if bias is None:
            what = "SVDQuant that moves its input (act_unsigned), without a bias to make up for it"
            raise unsupported(codes, what, "such layers with a bias")
        _fit(bias, (rows,))
        ledger.claim(_bias(bias, components, {**params, "bias_dtype": bias.dtype}, unit))
    ledger.note(NOTE)
    access = Contiguous(unit * rank * SCALE_BITS[up.dtype])
    return Tensor(
        name=codes.name,
        shape=(rows, columns),
        scheme="comfy-svdquant",
        encoding="svdquant",
        components=(*components, Component("down", down), Component("up", up, access)),
        unit_elems=unit * columns,
        params={**params, "up_dtype": up.dtype},
    )


def _shape(codes: Stored) -> tuple[bool, int, int]:
    """Whether codes lie in tiles, and the rows and columns that they have."""
    tiled = len(codes.shape) == 4
    if tiled:
        rows, columns = codes.shape[0] * TILE_ROWS, codes.shape[1] * _GROUP
        if codes.shape[2:] != _TILE_BYTES:
            raise misfit(codes, f"tiles of {list(_TILE_BYTES)} bytes")
    elif len(codes.shape) == 2:
        rows, columns = codes.shape[0], 2 * codes.shape[1]
    else:
        raise misfit(codes, "a matrix, or tiles in four dimensions")
    if codes.dtype not in ("I8", "U8") or not columns or columns % _GROUP:
        raise misfit(codes, f"I8, rows of whole groups of {_GROUP}")
    return tiled, rows, columns


def _bias(
    bias: Stored, components: tuple[Component, ...], params: dict[str, Any], unit: int
) -> Tensor:
    access = Contiguous(unit * SCALE_BITS[bias.dtype])
    return Tensor(
        name=bias.name,
        shape=bias.shape,
        scheme="comfy-svdquant",
        encoding="svdquant",
        components=(*components, Component("bias", bias, access)),
        unit_elems=unit,
        params=params,
    )


def awq(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    """Codes plus 8 with a scale and a centre for each group of a row; raises FormatError."""
    if len(codes.shape) != 2 or codes.dtype not in ("I8", "U8"):
        raise misfit(codes, "a matrix of I8")
    rows, columns = codes.shape[0], 2 * codes.shape[1]
    scale = need(ledger, codes, f"{codes.name}_scale")
    zero = ledger.get(f"{codes.name}_zero") or need(ledger, codes, f"{codes.name}_zeros")
    groups = scale.shape[0] if len(scale.shape) == 2 else 0
    stated = mark.options.get("group_size", _GROUP)
    if not groups or type(stated) is not int or groups * stated != columns:
        raise misfit(scale, f"{_FLOATS} [groups of {stated!r:.20} of {columns} columns, {rows}]")
    _fit(scale, (groups, rows))
    _fit(zero, (groups, rows))
    return Tensor(
        name=codes.name,
        shape=(rows, columns),
        scheme="comfy-awq",
        encoding="svdquant",
        components=(
            Component("codes", codes, Contiguous(max(8, 4 * columns))),
            Component("scale", scale, _lines(scale, 1, groups, rows)),
            Component("centre", zero, _lines(zero, 1, groups, rows)),
        ),
        unit_elems=max(1, columns),
        params={
            "in_features": columns,
            "groups": groups,
            "tiled": False,
            "signed": False,
            "scale_dtype": scale.dtype,
            "centre_dtype": zero.dtype,
        },
    )


def _part(ledger: Ledger, codes: Stored, part: str) -> Stored:
    plain = ledger.get(codes.name.removesuffix("weight") + part)
    return plain or need(ledger, codes, f"{codes.name}_{part}")


def _lines(scale: Stored, unit: int, groups: int, rows: int) -> Placement:
    """Where the numbers of a unit lie: in its tile, or in a line of each group."""
    bits = SCALE_BITS[scale.dtype]
    if unit > 1:
        return Contiguous(unit * groups * bits)
    return Strided(bits, max(1, rows * bits // 8))


def _fit(stored: Stored, shape: tuple[int, ...]) -> None:
    if stored.dtype not in SCALE_BITS or stored.shape != shape:
        raise misfit(stored, f"{_FLOATS} {list(shape)}")
