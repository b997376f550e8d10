"""ComfyUI's layers that a mark speaks of: NVFP4, MXFP8, INT8 and INT4, rotated or not.

| `format` | `X.weight` | `X.weight_scale` | besides |
|---|---|---|---|
| nvfp4 | U8 `[o, i / 2]`, element 2k in the high half | F8_E4M3 in tiles | `X.weight_scale_2` F32 |
| mxfp8 | F8_E4M3 or F8_E5M2 `[o, i]` | F8_E8M0 (or U8) in tiles | |
| int8_tensorwise | I8 `[o, i]` | F32 `[]`, `[1]` or `[o, 1]` | `convrot`, `convrot_groupsize` |
| int8_blockwise | I8 `[o, i]` | F32 `[ceil(o / 128), ceil(i / 128)]` | the same, `group_size` |
| convrot_w4a4 | I8 `[o, i / 2]`, signed, 2k in the low half | F32 `[o]` | `convrot_groupsize` |
| asym_w4a8_int8 | I8 `[o, i / 2]` or `[o, i * 3 / 4]` | `kernels/w4a8.py` | and `group_size` |
| svdquant_w4a4, awq_w4a16 | I8 `[o, i / 2]`, or tiles | `_comfy_svdquant.py` | the same |

Tiles are `[ceil(o / 128) * 128, ceil(blocks / 4) * 4]` (`kernels/torchao.py`). A rotated weight is
rotated back (`kernels/folded.py`). The mark is `X.comfy_quant`, or in the file's metadata
(`_comfy.py`); its FP8 formats are read by `fp8`. Sources: https://github.com/comfyanonymous/ComfyUI
comfy/quant_ops.py, comfy/ops.py; PyPI comfy-kitchen 0.2.40 tensor/nvfp4.py, mxfp8.py, int8.py,
convrot_w4a4.py and backends/eager/quantization.py.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._comfy import Mark, check_options, marks
from anamnesis.readers.schemes._comfy_svdquant import awq, svdquant
from anamnesis.readers.schemes._errors import misfit, need, unsupported, where
from anamnesis.readers.schemes._fold import folded, smoothed
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor, packed_tensor

_TILE_ROWS, _TILE_BLOCKS = 128, 4
_FP8 = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2"}
_BLOCK = 128  # of int8_blockwise, where the mark does not say
_ROTATED = (
    "ConvRot's layers are rotated back, in float32: exact but for the rounding of its sums, some "
    "1e-6 of the largest weight of a group, far below half a last place of BF16; what rounding the "
    "rotated weight to codes has lost is spread over the group"
)
_IMPLEMENTED = (
    "ComfyUI's float8_e4m3fn, float8_e5m2, nvfp4, mxfp8, int8_tensorwise, int8_blockwise, "
    "asym_w4a8_int8, convrot_w4a4, awq_w4a16 and svdquant_w4a4"
)


def resolve(ledger: Ledger) -> None:
    """Claim the layers that are marked, and drop their marks.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for other formats.
    """
    found = marks(ledger)
    check_options(ledger, found)
    for layer, mark in found.items():
        codes = ledger.get(f"{layer}.weight")
        if mark.empty:
            _drop_empty(ledger, codes, mark)
            continue
        if codes is None:
            continue
        if not mark.format:
            mark = _by_tensors(ledger, codes, mark)
        make = _FORMATS.get(mark.format)
        if make is None and (codes.dtype in _FP8 and not mark.rotation):
            continue  # of `fp8`, or of nobody
        if make is None:
            raise _unsupported(codes, mark)
        tensor = smoothed(ledger, f"{layer}.", make(ledger, codes, mark))
        if mark.rotation:
            if tensor.encoding == "folded":
                raise _unsupported(codes, mark, "with a pre_quant_scale")
            tensor = folded(tensor, rotation=mark.rotation)
            ledger.note(_ROTATED)
        ledger.claim(tensor)
        if mark.stored is not None:
            ledger.drop(mark.stored, f"ComfyUI mark of a layer: {mark.format}")


def _drop_empty(ledger: Ledger, codes: Stored | None, mark: Mark) -> None:
    """Drop a mark without a word, unless it stands beside codes."""
    if mark.stored is not None and (codes is None or DTYPES[codes.dtype].kind == "float"):
        ledger.drop(mark.stored, "ComfyUI mark of a layer that is not quantised")


def _by_tensors(ledger: Ledger, codes: Stored, mark: Mark) -> Mark:
    """A mark with the format that the tensors beside it show, where it names none; noted.

    Formats that share their tensors stay without one, and are refused.
    """
    beside = {name for name in _SCALES if ledger.get(f"{codes.name}{name}") is not None}
    format_ = _SHOWN.get((codes.dtype, *sorted(beside)), "")
    if format_:
        ledger.note(
            f"{where(codes)}: its ComfyUI mark names no format; taken as {format_} by its tensors"
        )
    return replace(mark, format=format_)


def _unsupported(codes: Stored, mark: Mark, more: str = "") -> UnsupportedError:
    what = f"ComfyUI's {mark.format[:40]}{', rotated' if mark.rotation else ''} {more}".rstrip()
    return unsupported(codes, what, _IMPLEMENTED)


def _matrix(codes: Stored, dtypes: tuple[str, ...]) -> tuple[int, int]:
    if len(codes.shape) != 2 or codes.dtype not in dtypes:
        raise misfit(codes, f"a matrix of {' or '.join(dtypes)}")
    return codes.shape[0], codes.shape[1]


def _tiles(scale: Stored, rows: int, blocks: int, dtypes: tuple[str, ...]) -> None:
    down, across = -(-rows // _TILE_ROWS), -(-blocks // _TILE_BLOCKS)
    shape = down * _TILE_ROWS, across * _TILE_BLOCKS
    if scale.shape != shape or scale.dtype not in dtypes:
        raise misfit(scale, f"{' or '.join(dtypes)} {list(shape)}, in tiles")


def _own_rows(ledger: Ledger, codes: Stored, rows: int, multiple: int) -> int:
    """Rows without those that fill them up to a multiple, of which the layer's bias has none.

    comfy-kitchen keeps the shape that a weight had with the model, and ComfyUI takes it from the
    layer that it loads; of a layer without a bias nothing in the file tells it.
    """
    bias = ledger.container.stored.get(codes.name.removesuffix("weight") + "bias")
    own = bias.shape[0] if bias is not None and len(bias.shape) == 1 else rows
    return own if own > 0 and -(-own // multiple) * multiple == rows else rows


def _nvfp4(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    rows, packed = _matrix(codes, ("U8",))
    columns, blocks = 2 * packed, packed // 8
    if packed % 8:
        raise misfit(codes, "rows of whole blocks of 16")
    scale = need(ledger, codes, f"{codes.name}_scale")
    _tiles(scale, rows, blocks, ("F8_E4M3",))
    rows = _own_rows(ledger, codes, rows, 16)
    factor = need(ledger, codes, f"{codes.name}_scale_2")
    if factor.dtype != "F32" or factor.shape not in ((), (1,)):
        raise misfit(factor, "F32, one number")
    line = _TILE_ROWS * -(-blocks // _TILE_BLOCKS) * _TILE_BLOCKS
    return Tensor(
        name=codes.name,
        shape=(rows, columns),
        scheme="nvfp4",
        encoding="torchao-nvfp4-tiles",
        components=(
            Component("payload", codes, Contiguous(_TILE_ROWS * 8 * max(1, packed))),
            Component("scale", scale, Contiguous(8 * max(1, line))),
            Component("global", factor),
        ),
        unit_elems=max(1, _TILE_ROWS * columns),
        params={
            "in_features": columns,
            "blocks": blocks,
            "global": "multiply",
            "rows": max(1, rows),
            "high_first": True,
        },
    )


def _mxfp8(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    rows, columns = _matrix(codes, tuple(_FP8))
    blocks = columns // 32
    if columns % 32:
        raise misfit(codes, "rows of whole blocks of 32")
    scale = need(ledger, codes, f"{codes.name}_scale")
    _tiles(scale, rows, blocks, ("F8_E8M0", "U8"))
    rows = _own_rows(ledger, codes, rows, 32)
    return Tensor(
        name=codes.name,
        shape=(rows, columns),
        scheme="mxfp8",
        encoding=f"torchao-mxfp8-{_FP8[codes.dtype]}-tiles",
        components=(
            Component("payload", codes, Contiguous(8 * max(1, columns))),
            Component("scale", scale),
        ),
        unit_elems=max(1, columns),
        params={
            "block": (1, 32),
            "grid": (1, rows, blocks),
            "rows": max(1, rows),
            "blocks": blocks,
        },
    )


def _int8(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    rows, _ = _matrix(codes, ("I8",))
    scale = need(ledger, codes, f"{codes.name}_scale")
    if scale.shape == (rows,) and rows > 1:
        scale = replace(scale, shape=(rows, 1))
    blocks = [mark.block(_BLOCK)] if mark.format == "int8_blockwise" else []
    return replace(int8_tensor(ledger, codes, scale, None, blocks), scheme="comfy-int8")


def _int4(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    rows, packed = _matrix(codes, ("I8", "U8"))
    scale = need(ledger, codes, f"{codes.name}_scale")
    tensor = packed_tensor(ledger, codes.name, codes, (rows, 2 * packed), scale, bits=4)
    return replace(tensor, scheme="comfy-int4", encoding="int4-rows")


def _w4a8(ledger: Ledger, codes: Stored, mark: Mark) -> Tensor:
    rows, packed = _matrix(codes, ("I8", "U8"))
    relative = need(ledger, codes, f"{codes.name}_s_rel")
    channel = need(ledger, codes, f"{codes.name}_s_channel")
    groups = relative.shape[1] if len(relative.shape) == 2 else 0
    columns = groups * mark.group
    if relative.dtype not in ("F8_E4M3", "F32") or relative.shape != (rows, groups) or not columns:
        raise misfit(relative, f"F8_E4M3 or F32 [{rows}, groups of {mark.group}]")
    bits = 4 if 2 * packed == columns else 6 if 4 * packed == 3 * columns else 0
    if not bits:
        raise misfit(codes, f"4 or 6 bits for {groups:,} groups of {mark.group} columns")
    if channel.dtype != "F32" or channel.shape != (rows,):
        raise misfit(channel, f"F32 [{rows}]")
    components = [
        Component("codes", codes, Contiguous(8 * max(1, packed))),
        Component("relative", relative, Contiguous(DTYPES[relative.dtype].bits * groups)),
        Component("channel", channel, Contiguous(32)),
    ]
    book, added = ledger.get(f"{codes.name}_codebook"), ledger.get(f"{codes.name}_correction")
    if book is not None:
        if book.dtype != "F32" or book.shape != (1 << bits,):
            raise misfit(book, f"F32 [{1 << bits}]")
        components.append(Component("codebook", book))
    if added is not None:
        if added.dtype not in ("F32", "BF16", "F16") or added.shape != (groups, rows):
            raise misfit(added, f"F32, BF16 or F16 {[groups, rows]}")
        width = DTYPES[added.dtype].bits
        placed = Strided(width, max(1, rows * width // 8))
        components.append(Component("correction", added, placed))
    return Tensor(
        name=codes.name,
        shape=(rows, columns),
        scheme="comfy-w4a8",
        encoding="comfy-w4a8",
        components=tuple(components),
        unit_elems=columns,
        params={
            "bits": bits,
            "in_features": columns,
            "relative_dtype": relative.dtype,
            "correction_dtype": added.dtype if added is not None else "",
        },
    )


# What stands beside codes, and what they are then.
_SCALES = ("_scale", "_scale_2", "_s_rel", "_s_channel")
_SHOWN: dict[tuple[str, ...], str] = {
    ("F8_E4M3", "_scale"): "float8_e4m3fn",
    ("F8_E5M2", "_scale"): "float8_e5m2",
    ("I8", "_scale"): "int8_tensorwise",
    ("U8", "_scale", "_scale_2"): "nvfp4",
}
_FORMATS = {
    "asym_w4a8_int8": _w4a8,
    "awq_w4a16": awq,
    "convrot_w4a4": _int4,
    "int8_blockwise": _int8,
    "int8_tensorwise": _int8,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "svdquant_w4a4": svdquant,
}
