"""torchao's tensors in safetensors files: codes `X._weight_qdata`, and their class in the metadata.

| class | codes | `_weight_scale` | besides |
|---|---|---|---|
| Float8Tensor | F8 `[…, o, i]` | F32, one for each block of `block_size` | |
| Int8Tensor | I8 `[…, o, i]` | BF16, F16 or F32, the same | `zero_point` I8, for some |
| IntxUnpackedToInt8Tensor | the same, of 1 to 8 bits | the same | `zero_point` I8 |
| Int4PlainInt32Tensor | I32 `[o, i / 8]` | `[groups, o]` | `zero_point` I8, the same |
| Int4Tensor | I8 `[…, o, i / 2]`, low half first | `[…, groups, o]` | `zero_point`, the same |
| MXTensor | F8, or U8 `[…, o, i / 2]` of FP4 | F8_E8M0 `[…, o, i / 32]` | |
| NVFP4Tensor | U8 `[…, o, i / 2]` | F8_E4M3 `[…, o, i / 16]` | `per_tensor_scale` F32, for some |

Zero points of Int4Tensor are numbers that are added, those of the others are subtracted from the
codes. `act_pre_scale`, of AWQ and SmoothQuant, has a number a column (`_fold.py`). The class is
said by the metadata alone (`_torchao_metadata.py`). Sources: torchao 0.18
quantization/quantize_/workflows, prototype/mx_formats (https://github.com/pytorch/ao).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes import _torchao_tiles
from anamnesis.readers.schemes._ct_grid import Grid, grid_of
from anamnesis.readers.schemes._fold import folded
from anamnesis.readers.schemes._onnx_linear import Grid as LinearGrid
from anamnesis.readers.schemes._onnx_linear import Layer, assemble
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._torchao_metadata import Described, described
from anamnesis.readers.schemes._torchao_pickled import AFFINE, TILED
from anamnesis.readers.schemes._torchao_plain import plain_int32
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.fp8 import ENCODINGS

_TILE_ROWS, _TILE_BLOCKS = 128, 4  # scales in tiles are filled up to multiples of these
_FP8 = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_FP4 = "float4_e2m1fn_x2"
_SCALES = tuple(SCALE_BITS)
# Of activations: they have no part in the weights.
_ACTIVATIONS = ("act_quant_scale", "act_quant_zero_point", "act_per_tensor_scale")
_FACTOR = "act_pre_scale"  # of the input, so of the weight's columns (AWQ, SmoothQuant)
# Of AffineQuantizedTensor: zero points are subtracted from codes, or there are none.
_DOMAINS = ("1", "3", "INT", "NONE", "int", "none")


def resolve(ledger: Ledger) -> None:
    """Claim what the metadata describes.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError for
    classes and layouts that are not implemented, by name.
    """
    prefixes: dict[str, list[str]] = {}
    tiled: list[_torchao_tiles.Make] = []
    for one in described(ledger):
        if one.kind == TILED:
            tiled.append(partial(_tiled_int4, one))
            ledger.claim(tiled[-1](_torchao_tiles.NVIDIA))
        else:
            make = _CLASSES.get(one.kind)
            if make is None:
                raise one.unsupported(one.kind)
            if len(one.codes.shape) not in (2, 3):
                raise one.misfit(one.codes, "a matrix, or a stack of matrices")
            ledger.claim(_smoothed(one, make(ledger, one)))
        for role, stored in one.parts.items():
            if role in _ACTIVATIONS:
                ledger.drop(stored, "activation scale")
        prefixes.setdefault(one.prefix.rpartition(".")[0], []).append(one.prefix)
    if tiled:
        ledger.later.append(partial(_torchao_tiles.settle, makers=tiled))
    for stored in ledger.free() if prefixes else ():
        owner = stored.name
        while owner:
            owner = owner.rpartition(".")[0]
            if stored.name.startswith(tuple(prefixes.get(owner, ()))):
                raise FormatError(
                    f"{stored.file.path}: tensor {stored.name!r}: a part of a torchao tensor that "
                    "its metadata does not name"
                )


def _smoothed(one: Described, tensor: Tensor) -> Tensor:
    """The same, under the factors that the input is multiplied by."""
    factor = one.parts.get(_FACTOR)
    return tensor if factor is None else folded(tensor, factor=factor)


def _tiled_int4(one: Described, tile_rows: int) -> Tensor:
    return _smoothed(one, _torchao_tiles.packed(one, tile_rows))


def _affine(ledger: Ledger, one: Described) -> Tensor:
    """Of torchao up to 0.13: integers with zero points, or FP8; scales lie flat, a block each."""
    codes = one.part("qdata", ("I8", "U8", *ENCODINGS))
    scale, zeros = (
        one.part("scale", _SCALES),
        one.optional("zero_point", ("I8", "U8", "I32", "I64")),
    )
    domain, block = one.about.get("zero_point_domain"), one.block()
    if str(domain).rpartition(".")[2] not in _DOMAINS or one.about.get("transposed"):
        raise one.unsupported(f"zero_point_domain {domain!r:.40}, or transposed codes")
    rows, columns = codes.shape if len(codes.shape) == 2 else (0, 0)
    if len(codes.shape) != 2 or any(
        side % size for side, size in zip(codes.shape, block, strict=True)
    ):
        raise one.error(f"block_size: {list(block)} does not divide {list(codes.shape)}")
    lines, groups = rows // block[0], columns // block[1]
    for stored in (scale, *(() if zeros is None else (zeros,))):
        if math.prod(stored.shape) != lines * groups:
            raise one.misfit(stored, f"{lines * groups:,} numbers, for blocks of {list(block)}")
    lying = LinearGrid(rows, columns, max(1, rows), lines, groups, block[1], block[0])
    layer = Layer(
        codes,
        one.name,
        codes.shape,
        codes.dtype,
        lying,
        scale,
        zeros=zeros,
        scheme="torchao-affine",
    )
    return assemble(ledger, layer)


def _float8(ledger: Ledger, one: Described) -> Tensor:
    codes, scale = one.part("qdata", tuple(ENCODINGS)), one.part("scale", ("F32",))
    rank = len(codes.shape)
    if math.prod(scale.shape) == 1 or not one.about.get("block_size"):
        block = codes.shape if math.prod(scale.shape) == 1 else _quotient(one, codes, scale)
    else:
        block = one.block()
        _cover(one, scale, block)
    if rank == 3 and block[0] != 1 and block != codes.shape:
        raise one.unsupported("a scale for blocks of several matrices")
    return _fp8(one, "torchao-float8", scale, block)


def _quotient(one: Described, codes: Stored, scale: Stored) -> tuple[int, ...]:
    """Older files do not tell the block; torchao divides the shapes then."""
    fits = len(scale.shape) == len(codes.shape) and all(
        s and not c % s for c, s in zip(codes.shape, scale.shape, strict=True)
    )
    if not fits:
        raise one.misfit(scale, f"a shape that divides {list(codes.shape)}")
    return tuple(max(1, c // s) for c, s in zip(codes.shape, scale.shape, strict=True))


def _cover(one: Described, stored: Stored, block: tuple[int, ...]) -> None:
    """Hold a shape against what one number a block makes."""
    shape = one.codes.shape
    if any(side % size for side, size in zip(shape, block, strict=True)):
        raise one.error(f"block_size: {list(block)} does not divide {list(shape)}")
    wanted = tuple(side // size for side, size in zip(shape, block, strict=True))
    if stored.shape != wanted:
        raise one.misfit(stored, f"{list(wanted)}, for blocks of {list(block)}")


def _fp8(
    one: Described, scheme: str, scale: Stored, block: tuple[int, ...], tiles: bool = False
) -> Tensor:
    codes = one.codes
    *lead, rows, columns = codes.shape
    bm, bn = max(1, block[-2]), max(1, block[-1])
    matrices = lead[0] if lead and lead[0] != block[0] else 1
    grid = matrices, -(-rows // bm), -(-columns // bn)
    if math.prod(scale.shape) == 1:
        (bm, bn), grid = (max(1, rows), max(1, columns)), (1, 1, 1)
    elif math.prod(scale.shape) != math.prod(grid) and not tiles:
        raise one.misfit(scale, f"{math.prod(grid)} numbers")
    params: dict[str, object] = {"block": (bm, bn), "grid": grid, "rows": max(1, rows)}
    if tiles:
        params["blocks"] = grid[2]
    return Tensor(
        name=one.name,
        shape=codes.shape,
        scheme=scheme,
        encoding=f"torchao-mx{ENCODINGS[codes.dtype]}-tiles" if tiles else ENCODINGS[codes.dtype],
        components=(
            Component("payload", codes, Contiguous(8 * max(1, columns))),
            Component("scale", scale),
        ),
        unit_elems=max(1, columns),
        params=params,
    )


def _int8(ledger: Ledger, one: Described) -> Tensor:
    zeros = one.optional("zero_point", ("I8",))
    return _integers(ledger, one, "torchao-int8", zeros, "exact")


def _intx(ledger: Ledger, one: Described) -> Tensor:
    """Its library multiplies in the dtypes of weight and scale, whichever is wider."""
    if one.parts.get("zero_point", one.codes).dtype in _SCALES:
        raise one.unsupported("zero points that are no integers")
    zeros, scale = one.part("zero_point", ("I8",)), one.part("scale", _SCALES)
    dtype, rounding = one.float_dtype("dtype"), ledger.options.rounding
    if dtype == "F16" and scale.dtype != "F16" and rounding == "reference":
        raise one.unsupported(f"float16 from {scale.dtype} scales in reference order")
    return _integers(
        ledger, one, "torchao-intx", zeros, rounding if dtype == scale.dtype else "exact"
    )


def _integers(
    ledger: Ledger, one: Described, scheme: str, zeros: Stored | None, rounding: str
) -> Tensor:
    codes, scale = one.part("qdata", ("I8",)), one.part("scale", _SCALES)
    block, shape = one.block(), codes.shape
    _cover(one, scale, block)
    if zeros is not None:
        _cover(one, zeros, block)
    if len(block) == 3 and block[0] != 1 and math.prod(scale.shape) != 1:
        raise one.unsupported("a scale for blocks of several matrices")
    matrices = shape[0] if len(shape) == 3 else 1
    sizes = matrices, shape[-2], shape[-1]
    grid: Grid = grid_of(codes, sizes, shape, scale, [(block[-2], block[-1])])
    components = [
        Component("weight", codes, Contiguous(8 * max(1, shape[-1]))),
        grid.component("weight_scale", scale, 1),
    ]
    if zeros is not None:
        components.append(grid.component("weight_zero_point", zeros, 1))
    return Tensor(
        name=one.name,
        shape=shape,
        scheme=scheme,
        encoding="ct-int8",
        components=tuple(components),
        unit_elems=max(1, shape[-1]),
        params={
            "bits": 8,
            "zero": "" if zeros is None else "plain",
            **grid.params,
            "unit_rows": 1,
            "in_features": shape[-1],
            "act_order": False,
            "scale_dtype": scale.dtype,
            "rounding": rounding,
        },
    )


def _int4(ledger: Ledger, one: Described) -> Tensor:
    codes, scale = one.part("qdata", ("I8", "U8")), one.part("scale", _SCALES)
    zero = one.part("zero_point", (scale.dtype,))
    *lead, rows, packed = codes.shape
    columns, block = 2 * packed, one.block()
    size = block[-1]
    if any(side != 1 for side in block[:-1]) or columns % size:
        raise one.error(f"block_size: {list(block)}; allowed are groups that divide {columns}")
    stated = one.about.get("shape")
    if stated != [*lead, rows, columns]:
        raise one.error(f"shape: {stated!r:.80}; its codes are of {[*lead, rows, columns]}")
    groups, bits = columns // size, SCALE_BITS[scale.dtype]
    wanted = (*lead, groups, rows)
    for stored in (scale, zero):
        if stored.shape != wanted:
            raise one.misfit(stored, f"{list(wanted)}")
    if size % 2:
        raise one.unsupported(f"groups of {size}")
    line = max(1, rows * bits // 8)
    access = Strided(bits, line, lines=max(1, groups) if lead else 0)
    return Tensor(
        name=one.name,
        shape=(*lead, rows, columns),
        scheme="torchao-int4",
        encoding="torchao-int4",
        components=(
            Component("payload", codes, Contiguous(8 * max(1, packed))),
            Component("scale", scale, access),
            Component("zero_point", zero, access),
        ),
        unit_elems=max(1, columns),
        params={"bits": 4, "group_size": size, "scale_dtype": scale.dtype},
    )


def _int4_plain(ledger: Ledger, one: Described) -> Tensor:
    return plain_int32(one)


def _mx(ledger: Ledger, one: Described) -> Tensor:
    element, size = one.dtype("elem_dtype"), one.number("block_size")
    if element not in (*_FP8, _FP4):
        raise one.unsupported(f"{element[:40]}")
    if element == _FP4:
        one.part("qdata", ("U8",))
        return _fp4(one, "torchao-mx", one.part("scale", ("F8_E8M0",)), size, 32)
    codes, scale = one.part("qdata", (_FP8[element],)), one.part("scale", ("F8_E8M0",))
    block = (*(1 for _ in codes.shape[:-1]), size)
    tiles = one.truth("is_swizzled_scales")
    if tiles:
        _tiled(one, scale, codes.shape[-1], size)
    else:
        _cover(one, scale, block)
    return _fp8(one, "torchao-mx", scale, block, tiles)


def _nvfp4(ledger: Ledger, one: Described) -> Tensor:
    codes, scale = one.part("qdata", ("U8",)), one.part("scale", ("F8_E4M3",))
    factor = one.optional("per_tensor_scale", ("F32",))
    experts = (codes.shape[0], 1, 1) if len(codes.shape) == 3 else ()
    if factor is not None and factor.shape not in ((), experts):
        raise one.misfit(factor, f"{[list(shape) for shape in sorted({(), experts})]}")
    return _fp4(one, "torchao-nvfp4", scale, one.number("block_size"), 16, factor)


def _fp4(
    one: Described,
    scheme: str,
    scale: Stored,
    size: int,
    allowed: int,
    factor: Stored | None = None,
) -> Tensor:
    *lead, packed = one.codes.shape
    columns, tiles = 2 * packed, one.truth("is_swizzled_scales")
    if size != allowed:
        raise one.unsupported(f"FP4 in blocks of {size}")
    if tiles:
        _tiled(one, scale, columns, size)
    elif columns % size or scale.shape != (*lead, columns // size):
        raise one.misfit(scale, f"one number for each {size} of {[*lead, columns]}")
    # A unit is a row, or the rows of a line of tiles.
    rows = _TILE_ROWS if tiles else 1
    each = rows * (-(-columns // size // _TILE_BLOCKS) * _TILE_BLOCKS if tiles else columns // size)
    components = [
        Component("payload", one.codes, Contiguous(rows * 8 * max(1, packed))),
        Component("scale", scale, Contiguous(8 * max(1, each))),
    ]
    params: dict[str, object] = {}
    if tiles:
        params = {"in_features": columns, "blocks": columns // size}
    if factor is not None:
        components.append(Component("global", factor))
        params |= {"global": "multiply", "rows": max(1, lead[-1])}
    kind = "mxfp4" if allowed == 32 else "nvfp4"
    return Tensor(
        name=one.name,
        shape=(*lead, columns),
        scheme=scheme,
        encoding=f"torchao-{kind}-tiles" if tiles else f"fp4-{kind[:2]}",
        components=tuple(components),
        unit_elems=max(1, rows * columns),
        params=params,
    )


def _tiled(one: Described, scale: Stored, columns: int, size: int) -> None:
    """Hold scales in tiles against the shape that torchao gives them."""
    *lead, rows, _ = one.codes.shape
    if columns % size:
        raise one.misfit(one.codes, f"rows of whole blocks of {size}")
    down, across = -(-rows // _TILE_ROWS), -(-columns // size // _TILE_BLOCKS)
    if math.prod(lead) > 1 and rows % _TILE_ROWS:
        raise one.unsupported(f"scales in tiles for matrices of {rows:,} rows in a stack")
    if scale.shape != (*lead, 32 * down, 16 * across):
        raise one.misfit(scale, f"{[*lead, 32 * down, 16 * across]}, in tiles")


_CLASSES: dict[str, Callable[[Ledger, Described], Tensor]] = {
    AFFINE: _affine,
    "Float8Tensor": _float8,
    "Int4PlainInt32Tensor": _int4_plain,
    "Int4Tensor": _int4,
    "Int8Tensor": _int8,
    "IntxUnpackedToInt8Tensor": _intx,
    "MXTensor": _mx,
    "NVFP4Tensor": _nvfp4,
}
