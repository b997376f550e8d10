"""compressed-tensors' integer formats: pack-quantized, and int-quantized or naive-quantized INT8.

| tensor | pack-quantized | int-quantized |
|---|---|---|
| codes | `X.weight_packed` I32 `[o, words]` | `X.weight` I8 `[o, i]` |
| shape | `X.weight_shape` I64 or I32: `[o, i]` | |
| scales, BF16, F16 or F32 | `X.weight_scale` `[o, G]`, `[1]`, `[]` or of blocks | same |
| zero points, if asymmetric | `X.weight_zero_point` I32 `[words, G]`, or I8 | I8 |
| group of each input, old files | `X.weight_g_idx` I32 `[i]` | same |

`G` is 1 for a scale a row; I8 zero points have the shape of the scales. Stacked experts have one
more dimension in front of everything. Where they are one parameter `X` (`experts.gate_up_proj`),
its parts are `X_packed`, `X_scale`, `X_zero_point` and `X_shape`, which may be missing, or tell
each expert's. U8 `weight_packed` is another format's (FP4, FP6). Sources:
https://github.com/vllm-project/compressed-tensors compressors/ of 0.20.0, and of 0.9.4 for what
0.20 no longer reads; https://github.com/vllm-project/llm-compressor/pull/3017 for fused experts.
"""

from __future__ import annotations

import math
from dataclasses import replace

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._comfy import marks
from anamnesis.readers.schemes._ct_config import Settings, settings
from anamnesis.readers.schemes._ct_grid import Grid, grid_of
from anamnesis.readers.schemes._ct_layout import Packing, packings
from anamnesis.readers.schemes._ct_sparse import sparse
from anamnesis.readers.schemes._errors import misfit, missing, need, unsupported, where
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._scale_grid import Block
from anamnesis.readers.schemes._small_numbers import WIDTHS, integers
from anamnesis.readers.schemes.base import Ledger

_IMPLEMENTED = "pack-quantized, int-quantized and naive-quantized of compressed-tensors"
_WORDS = ("I32", "U32")
_OTHER_SCALES = ("F8_", "U8")  # of FP4 codes that are stored as I8
_FOREIGN = "pre_quant_scale"  # beside ModelOpt's weights that are more than codes and scales


def resolve(ledger: Ledger) -> None:
    """Claim packed and INT8 weights with their scales.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError for
    sparse and rotated checkpoints by name.
    """
    _claim_sparse(ledger)
    stated = settings(ledger)
    files = Files()
    try:
        for stored in ledger.free() if not ledger.dtypes.isdisjoint(_WORDS) else ():
            name = stored.name.removesuffix("_packed")
            if name == stored.name or stored.dtype not in _WORDS:
                continue
            if ledger.get(f"{name.removesuffix('weight')}meta") is not None:
                continue  # 2:4 in Marlin's tiles
            if _is_weight(name) or _is_stacked(ledger, stored, name):
                _claim_packed(ledger, stored, name, stated, files)
        files.check_unchanged()
    finally:
        files.close()
    if not stated.foreign:
        _claim_plain(ledger, stated)


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def _is_stacked(ledger: Ledger, codes: Stored, name: str) -> bool:
    """Whether codes are of experts that are one parameter, by their rank and by a scale."""
    return len(codes.shape) == 3 and ledger.get(f"{name}_scale") is not None


def _claim_plain(ledger: Ledger, stated: Settings) -> None:
    foreign = marks(ledger)
    for stored in ledger.free() if "I8" in ledger.dtypes else ():
        name = stored.name
        if stored.dtype != "I8" or name.rpartition(".")[0] in foreign:
            continue
        if f"{name}_offset" in ledger.container.stored:
            continue  # ModelSlim's
        scale = ledger.get(f"{name}_scale")
        if scale is None or scale.dtype.startswith(_OTHER_SCALES):
            continue
        if _is_weight(name) or _is_stacked(ledger, stored, name):
            _claim_int8(ledger, stored, stated)


def _claim_packed(
    ledger: Ledger, packed: Stored, name: str, stated: Settings, files: Files
) -> None:
    _refuse_foreign(ledger, packed, name)
    stored_shape = ledger.get(f"{name}_shape")
    scale = need(ledger, packed, f"{name}_scale")
    if stored_shape is not None:
        shape = _shape(stored_shape, packed, files)
    elif _is_weight(name):
        raise missing(ledger, packed, f"{name}_shape")
    else:
        shape = _shape_of_words(packed, scale, stated)
    matrices = shape[0] if len(shape) == 3 else 1
    rows, inputs = shape[-2:]
    grid = grid_of(packed, (matrices, rows, inputs), shape, scale, stated.blocks)
    zeros, g_idx = ledger.get(f"{name}_zero_point"), ledger.get(f"{name}_g_idx")
    zero_words = _zero_words(zeros, grid)
    found = packings(packed.shape[-1], inputs, zero_words, rows, stated)
    if len(found) != 1:
        _refuse_packings(packed, shape, zeros, found)
    packing = found[0]
    unit = packing.per_unit if zero_words is not None else 1
    whole_zeros = zero_words is not None and matrices > 1 and rows % unit != 0
    if whole_zeros:
        unit = 1
    zero = "" if zeros is None else "plain"
    if zero_words is not None:
        zero = "padded" if packing.padded else "dense"
    components = [
        Component("weight_packed", packed, Contiguous(unit * 32 * max(1, packed.shape[-1]))),
        grid.component("weight_scale", scale, unit),
    ]
    if zeros is not None and zero_words is None:
        components.append(grid.component("weight_zero_point", grid.checked(zeros, ("I8",)), unit))
    elif zeros is not None:
        access = Contiguous(packing.words(unit) * 32 * max(1, grid.groups))
        components.append(
            Component("weight_zero_point", zeros)
            if whole_zeros
            else Component("weight_zero_point", zeros, access)
        )
    ledger.claim(
        int_tensor(
            ledger, name, shape, components, grid, g_idx, unit,
            {"bits": packing.bits, "padded": packing.padded, "zero": zero},
        )
    )  # fmt: skip
    if stored_shape is not None:
        ledger.drop(stored_shape, "shape of a packed weight")


def _claim_int8(ledger: Ledger, codes: Stored, stated: Settings) -> None:
    _refuse_foreign(ledger, codes, codes.name)
    scale = need(ledger, codes, f"{codes.name}_scale")
    zeros = ledger.get(f"{codes.name}_zero_point")
    if zeros is not None and zeros.dtype != "I8":
        raise misfit(zeros, "I8, like the scales")
    ledger.claim(int8_tensor(ledger, codes, scale, zeros, stated.blocks))


def int8_tensor(
    ledger: Ledger, codes: Stored, scale: Stored, zeros: Stored | None, blocks: list[Block]
) -> Tensor:
    """Plain INT8 codes with scales, and zero points of I8 or floats in the shape of the scales.

    Raises FormatError for parts that do not fit one another.
    """
    shape = codes.shape
    if len(shape) not in (2, 3):
        raise misfit(codes, "a matrix, or a stack of matrices")
    matrices = shape[0] if len(shape) == 3 else 1
    grid = grid_of(codes, (matrices, shape[-2], shape[-1]), shape, scale, blocks)
    g_idx = ledger.get(f"{codes.name}_g_idx")
    components = [
        Component("weight", codes, Contiguous(8 * max(1, shape[-1]))),
        grid.component("weight_scale", scale, 1),
    ]
    params: dict[str, object] = {"bits": 8, "zero": ""}
    if zeros is not None:
        params["zero"] = "plain" if zeros.dtype == "I8" else "float"
        if zeros.dtype != "I8":
            params["zero_dtype"] = zeros.dtype
        checked = grid.checked(zeros, ("I8", *SCALE_BITS))
        components.append(grid.component("weight_zero_point", checked, 1))
    return int_tensor(ledger, codes.name, shape, components, grid, g_idx, 1, params)


def packed_tensor(
    ledger: Ledger,
    name: str,
    codes: Stored,
    shape: tuple[int, ...],
    scale: Stored,
    *,
    bits: int,
    unit: int = 1,
) -> Tensor:
    """Symmetric codes of rows that fill whole bytes, or of `unit` rows together, with their scales.

    The bytes are those of `ct-packed`; another encoding may put them in that order first. Raises
    FormatError for a scale that does not fit.
    """
    matrices, (rows, inputs) = math.prod(shape[:-2]), shape[-2:]
    if len(scale.shape) == 1 and scale.shape[0] == rows > 1:
        scale = replace(scale, shape=(rows, 1))
    grid = grid_of(codes, (matrices, rows, inputs), shape, scale, [])
    row_bytes = -(-inputs * bits // 8)
    components = [
        Component("weight_packed", codes, Contiguous(unit * 8 * max(1, row_bytes))),
        grid.component("weight_scale", scale, unit),
    ]
    params = {"bits": bits, "padded": False, "zero": "", "row_bytes": row_bytes}
    return int_tensor(ledger, name, shape, components, grid, None, unit, dict(params))


def int_tensor(
    ledger: Ledger,
    name: str,
    shape: tuple[int, ...],
    components: list[Component],
    grid: Grid,
    g_idx: Stored | None,
    unit: int,
    params: dict[str, object],
) -> Tensor:
    """A logical tensor of `ct-packed` or `ct-int8`, in units of `unit` rows.

    `components` begin with codes, of which the role says which of the two, and scales. Raises
    FormatError for a `g_idx` or groups that do not fit the columns.
    """
    inputs, packed, scale = shape[-1], components[0].role == "weight_packed", components[1].stored
    if g_idx is not None:
        if g_idx.dtype not in ("I32", "I64") or g_idx.shape != (inputs,) or not grid.by_rows:
            raise misfit(g_idx, f"I32 or I64 [{inputs}], beside scales [rows, groups]")
        components.append(Component("weight_g_idx", g_idx))
    elif inputs % grid.groups and grid.by_rows and not grid.rest:
        raise misfit(scale, f"groups of one size: {grid.groups:,} do not divide {inputs:,} inputs")
    return Tensor(
        name=name,
        shape=shape,
        scheme="ct-pack-quantized" if packed else "ct-int-quantized",
        encoding="ct-packed" if packed else "ct-int8",
        components=tuple(components),
        unit_elems=max(1, unit * inputs),
        params={
            **params,
            **grid.params,
            "unit_rows": unit,
            "in_features": inputs,
            "act_order": g_idx is not None,
            "scale_dtype": scale.dtype,
            "rounding": ledger.options.rounding,
        },
    )


def _zero_words(zeros: Stored | None, grid: Grid) -> int | None:
    """Words of a column of packed zero points; None for others."""
    if zeros is None or zeros.dtype not in ("I32", "U32"):
        return None
    lead = (grid.matrices,) if grid.stacked else ()
    allowed = f"I32 {[*lead, 'words', grid.groups]}, or I8 like the scales"
    if not grid.by_rows or len(zeros.shape) != len(lead) + 2:
        raise misfit(zeros, allowed)
    if zeros.shape[: len(lead)] != lead or zeros.shape[-1] != grid.groups:
        raise misfit(zeros, allowed)
    return zeros.shape[-2]


def _shape(stored: Stored, packed: Stored, files: Files) -> tuple[int, ...]:
    """The numbers of a `weight_shape`, checked against the packed tensor but for its columns.

    Of a stack it holds all three, or rows and columns of each matrix: the same ones.
    """
    rank = len(packed.shape)
    each = rank == 3 and stored.shape == (packed.shape[0], 2)
    if stored.dtype not in WIDTHS or rank not in (2, 3) or not (each or stored.shape == (rank,)):
        stack = f" or {[packed.shape[0], 2]}" if rank == 3 else ""
        raise misfit(
            stored, f"I64 or I32 [{rank}]{stack}, for {packed.name!r} {list(packed.shape)}"
        )
    shape = integers(stored, files)
    if each and len(set(zip(shape[::2], shape[1::2], strict=True))) == 1:
        shape = (packed.shape[0], *shape[:2])
    if shape[:-1] != packed.shape[:-1] or not 0 <= shape[-1] <= 32 * packed.shape[-1]:
        raise FormatError(
            f"{where(stored)}: says {list(shape)}, beside {packed.name!r} {packed.dtype} "
            f"{list(packed.shape)}"
        )
    return shape


def _shape_of_words(packed: Stored, scale: Stored, stated: Settings) -> tuple[int, ...]:
    """The shape of packed codes that nobody wrote down: codes of the config's bits fill the words.

    Raises FormatError where the config states no bits, or ones that leave a choice, or groups that
    the scales are not.
    """
    bits = next(iter(stated.bits)) if len(stated.bits) == 1 else 0
    if not bits or 32 % bits:
        raise FormatError(
            f"{where(packed)}: no shape beside it, and the config's num_bits "
            f"({sorted(stated.bits)}) do not tell one; allowed is one of 1, 2, 4 and 8"
        )
    inputs = packed.shape[-1] * 32 // bits
    groups = scale.shape[-1] if scale.shape else 1
    sizes = [size for block, size in stated.blocks if block == 1]
    if groups > 1 and sizes and all(size * groups != inputs for size in sizes):
        raise misfit(scale, f"{inputs:,} inputs of {packed.name!r} in groups of {sizes}")
    return (*packed.shape[:-1], inputs)


def _refuse_packings(
    packed: Stored, shape: tuple[int, ...], zeros: Stored | None, found: list[Packing]
) -> None:
    beside = f" and zero points {list(zeros.shape)}" if zeros is not None else ""
    if not found:
        raise misfit(
            packed, f"columns of 1 to 8 bits a code for weight_shape {list(shape)}{beside}"
        )
    names = ", ".join(f"{p.bits} bits{' padded' * p.padded}" for p in found)
    raise FormatError(
        f"{where(packed)}: weight_shape {list(shape)}{beside} fit {names}; allowed is one, and the "
        "config's num_bits and version do not tell which"
    )


def _refuse_foreign(ledger: Ledger, codes: Stored, name: str) -> None:
    stem = name.removesuffix("weight") if _is_weight(name) else f"{name}_"
    if ledger.container.stored.get(stem + _FOREIGN) is not None:
        raise UnsupportedError(
            f"{where(codes)}: {stem + _FOREIGN!r:.200} beside it has to be folded into the weight, "
            "as ModelOpt's have it, and no configuration says that it is ModelOpt's; put the "
            "export's hf_quant_config.json beside the file, or a config.json with "
            '"quantization_config": {"quant_method": "modelopt"}'
        )


def _claim_sparse(ledger: Ledger) -> None:
    """Claim 2:4 sparsity; refuse unstructured sparsity."""
    stored = ledger.container.stored
    for one in ledger.free() if ledger.endings.any("bitmask") else ():
        prefix, dot, part = one.name.rpartition(".")
        stem = prefix + dot
        if part == "bitmask" and f"{stem}compressed" in stored:
            if f"{stem}row_offsets" in stored:
                raise unsupported(one, "sparse-bitmask", _IMPLEMENTED)
            ledger.claim(sparse(ledger, one, stem, int8_tensor))
