"""Four Over Six (`quant_method: fouroversix`): NVFP4, MXFP4, INT4 and IF4 of its own package.

| tensor | stored |
|---|---|
| `X.quantized_weight_values` | U8 `[rows, columns / 2]`, filled up to tiles |
| `X.quantized_weight_scale_factors` | F8_E4M3 or F8_E8M0 (or U8), flat or a matrix |
| `X.quantized_weight_amax` | F32, one |
| `X.quantized_weight_metadata` | I64 or I32 `[6]`: rows and columns, the same as stored, 1, tiles |

What the codes are (`weight_dtype`, `dtype`) and by which rule scales were chosen
(`weight_scale_rule`, `scale_rule`) stands in the configuration alone, for some modules in
`module_config_overrides`. Source: https://github.com/mit-han-lab/fouroversix
src/fouroversix/model/modules/linear.py, model/config.py, utils.py (dadfad6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported, where
from anamnesis.readers.schemes._small_numbers import WIDTHS, integers
from anamnesis.readers.schemes.base import Ledger

_CODES = "quantized_weight_values"
_ROWS = 128  # of a tile
_RULES = ("abs_max", "mae", "mse", "static_4", "static_6")
_IMPLEMENTED = (
    "Four Over Six's nvfp4, nvfp4_bs8, mxfp4, mxfp4_bs8, nvint4 and if4, rounded to nearest"
)


class _Kind(NamedTuple):
    codes: str
    block: int
    mx: bool
    most: int  # the largest number of a code


_KINDS = {
    "if4": _Kind("if4", 16, False, 6),
    "mxfp4": _Kind("fp4", 32, True, 6),
    "mxfp4_bs8": _Kind("fp4", 8, True, 6),
    "nvfp4": _Kind("fp4", 16, False, 6),
    "nvfp4_bs8": _Kind("fp4", 8, False, 6),
    "nvint4": _Kind("int4", 16, False, 7),
}


def resolve(ledger: Ledger) -> None:
    """Claim layers by their values.

    Raises FormatError for parts that are missing or do not fit, UnsupportedError for what the
    configuration does not tell, or tells of no known kind.
    """
    files = Files()
    try:
        for stored in ledger.free():
            prefix, dot, part = stored.name.rpartition(".")
            if part == _CODES:
                ledger.claim(_tensor(ledger, f"{prefix}{dot}", stored, files))
        files.check_unchanged()
    finally:
        files.close()


def _tensor(ledger: Ledger, stem: str, codes: Stored, files: Files) -> Tensor:
    block = next((s.block for s in ledger.stated if s.method == "fouroversix"), None)
    if block is None:
        raise unsupported(codes, "Four Over Six whose configuration is not there", _IMPLEMENTED)
    said = _said(block, stem.rstrip("."))
    name, rule = said["dtype"], said["scale_rule"]
    kind = _KINDS.get(str(name))
    if kind is None or rule not in _RULES or said["round_style"] not in (None, "nearest"):
        what = f"weights of {name!r:.40} by {rule!r:.40}, rounded {said['round_style']!r:.40}"
        raise unsupported(codes, what, _IMPLEMENTED)
    about = need(ledger, codes, f"{stem}quantized_weight_metadata")
    if about.dtype not in WIDTHS or about.shape != (6,):
        raise misfit(about, "I64 or I32 [6]")
    rows, columns, all_rows, stored_columns, _, tiles = integers(about, files)
    scale = need(ledger, codes, f"{stem}quantized_weight_scale_factors")
    _check(codes, (rows, columns, all_rows, stored_columns), kind.block)
    scales = all_rows * (stored_columns // kind.block)
    kinds = ("F8_E8M0", "U8") if kind.mx else ("F8_E4M3",)
    if scale.dtype not in kinds or scale.nbytes != scales or tiles not in (0, 1):
        raise misfit(scale, f"{scales:,} of {' or '.join(kinds)}, in tiles or not")
    each = _ROWS * stored_columns
    components = [
        Component("codes", codes, Contiguous(4 * each)),
        Component("scale", scale, Contiguous(8 * each // kind.block)),
    ]
    amax = ledger.get(f"{stem}quantized_weight_amax")
    if kind.mx and amax is not None:
        ledger.drop(amax, "of scales that are powers of two it has no part")
    elif not kind.mx:
        amax = need(ledger, codes, f"{stem}quantized_weight_amax")
        if amax.dtype != "F32" or amax.nbytes != 4:
            raise misfit(amax, "one F32")
        components.append(Component("amax", amax))
    ledger.drop(about, "sizes of a packed weight")
    most = 4 if rule == "static_4" else kind.most
    chosen = rule not in ("static_4", "static_6") and kind.codes == "fp4"
    return Tensor(
        name=f"{stem}weight",
        shape=(rows, columns),
        scheme="fouroversix",
        encoding="fouroversix",
        components=tuple(components),
        unit_elems=_ROWS * columns,
        params={
            "columns": columns,
            "stored_columns": stored_columns,
            "block": kind.block,
            "kind": kind.codes,
            "mx": kind.mx,
            "tiles": bool(tiles),
            "unit": most * (256 if chosen else 448),
            "rounding": ledger.options.rounding,
        },
    )


def _said(block: Mapping[str, Any], module: str) -> dict[str, Any]:
    """What the configuration says of a module's weight; one of its own stands for all of it."""
    overrides = block.get("module_config_overrides")
    own = overrides.get(module) if isinstance(overrides, Mapping) else None
    block = own if isinstance(own, Mapping) else block
    return {
        "dtype": block.get("weight_dtype") or block.get("dtype") or "nvfp4",
        "scale_rule": block.get("weight_scale_rule") or block.get("scale_rule") or "mse",
        "round_style": block.get("weight_round_style"),
    }


def _check(codes: Stored, sizes: tuple[int, int, int, int], block: int) -> None:
    """Hold the sizes that are stated against the codes."""
    rows, columns, all_rows, stored_columns = sizes
    whole = all_rows % _ROWS == 0 and stored_columns % (4 * block) == 0
    fits = 0 < rows <= all_rows and 0 < columns <= stored_columns and whole
    if codes.dtype != "U8" or not fits or codes.shape != (all_rows, stored_columns // 2):
        raise FormatError(
            f"{where(codes)}: its metadata says {rows} x {columns}, stored as {all_rows} x "
            f"{stored_columns}; allowed is U8 of as many rows and half of the columns, in whole "
            f"tiles of {_ROWS} x {4 * block}"
        )
