"""compressed-tensors' integer formats: pack-quantized, and int-quantized or naive-quantized INT8.

| tensor | pack-quantized | int-quantized |
|---|---|---|
| codes | `X.weight_packed` I32 `[o, words]` | `X.weight` I8 `[o, i]` |
| shape | `X.weight_shape` I64 or I32: `[o, i]` | |
| scales, BF16, F16 or F32 | `X.weight_scale` `[o, G]`, `[1]`, `[]` or of blocks | same |
| zero points, if asymmetric | `X.weight_zero_point` I32 `[words, G]`, or I8 | I8 |
| group of each input, old files | `X.weight_g_idx` I32 `[i]` | same |

`G` is 1 for a scale a row; I8 zero points have the shape of the scales. Stacked experts have one
more dimension in front of everything. U8 `weight_packed` is another format's (FP4, FP6). Source:
https://github.com/vllm-project/compressed-tensors compressors/ of 0.20.0, and of 0.9.4 for what
0.20 no longer reads.
"""

from __future__ import annotations

from anamnesis.errors import FormatError
from anamnesis.readers.base import Access, Component, Stored, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.schemes._comfy import marks
from anamnesis.readers.schemes._ct_config import Settings, settings
from anamnesis.readers.schemes._ct_grid import Grid, grid_of
from anamnesis.readers.schemes._ct_layout import Packing, packings
from anamnesis.readers.schemes._errors import misfit, need, unsupported, where
from anamnesis.readers.schemes.base import Ledger

_IMPLEMENTED = "pack-quantized, int-quantized and naive-quantized of compressed-tensors"
_ACTIVATION_ZEROS = tuple(
    f"{name}_zero_point" for name in ("input", "output", "k", "v", "q", "k_cache", "v_cache")
)
_OTHER_SCALES = ("F8_", "U8")  # of FP4 codes that are stored as I8
# What stands beside weights that are more than codes and scales.
_FOREIGN = {"pre_quant_scale": "weights to be folded with pre_quant_scale (ModelOpt)"}


def resolve(ledger: Ledger) -> None:
    """Claim packed and INT8 weights with their scales; drop what is of activations only.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError for
    sparse and rotated checkpoints by name.
    """
    _refuse_sparse(ledger)
    stated = settings(ledger)
    files, claimed = Files(), False
    try:
        for stored in ledger.free():
            prefix, dot, part = stored.name.rpartition(".")
            if part == "weight_packed" and stored.dtype in ("I32", "U32"):
                _claim_packed(ledger, stored, prefix + dot, stated, files)
                claimed = True
        files.check_unchanged()
    finally:
        files.close()
    if not stated.foreign:
        claimed = _claim_plain(ledger, stated) or claimed
    for stored in ledger.free() if claimed else ():
        if stored.name.rpartition(".")[2] in _ACTIVATION_ZEROS:
            ledger.drop(stored, "activation zero point")


def _claim_plain(ledger: Ledger, stated: Settings) -> bool:
    claimed = False
    foreign = marks(ledger)
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "weight" or stored.dtype != "I8" or prefix in foreign:
            continue
        scale = ledger.get(f"{prefix}{dot}weight_scale")
        if scale is not None and not scale.dtype.startswith(_OTHER_SCALES):
            _claim_int8(ledger, stored, prefix + dot, stated)
            claimed = True
    return claimed


def _claim_packed(
    ledger: Ledger, packed: Stored, stem: str, stated: Settings, files: Files
) -> None:
    _refuse_foreign(ledger, packed, stem)
    stored_shape = need(ledger, packed, f"{stem}weight_shape")
    scale = need(ledger, packed, f"{stem}weight_scale")
    shape = _shape(stored_shape, packed, files)
    matrices = shape[0] if len(shape) == 3 else 1
    rows, inputs = shape[-2:]
    grid = grid_of(packed, (matrices, rows, inputs), shape, scale, stated.blocks)
    zeros, g_idx = ledger.get(f"{stem}weight_zero_point"), ledger.get(f"{stem}weight_g_idx")
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
        Component("weight_packed", packed, Access("rows", unit * 32 * max(1, packed.shape[-1]))),
        grid.component("weight_scale", scale, unit),
    ]
    if zeros is not None and zero_words is None:
        components.append(grid.component("weight_zero_point", grid.checked(zeros, ("I8",)), unit))
    elif zeros is not None:
        access = Access("rows", packing.words(unit) * 32 * max(1, grid.groups))
        components.append(
            Component("weight_zero_point", zeros)
            if whole_zeros
            else Component("weight_zero_point", zeros, access)
        )
    ledger.claim(
        _tensor(
            ledger, f"{stem}weight", shape, "packed", components, grid, g_idx, scale, unit,
            {"bits": packing.bits, "padded": packing.padded, "zero": zero},
        )
    )  # fmt: skip
    ledger.drop(stored_shape, "shape of a packed weight")


def _claim_int8(ledger: Ledger, codes: Stored, stem: str, stated: Settings) -> None:
    _refuse_foreign(ledger, codes, stem)
    scale = need(ledger, codes, f"{stem}weight_scale")
    shape = codes.shape
    if len(shape) not in (2, 3):
        raise misfit(codes, "a matrix, or a stack of matrices")
    matrices = shape[0] if len(shape) == 3 else 1
    grid = grid_of(codes, (matrices, shape[-2], shape[-1]), shape, scale, stated.blocks)
    zeros, g_idx = ledger.get(f"{stem}weight_zero_point"), ledger.get(f"{stem}weight_g_idx")
    components = [
        Component("weight", codes, Access("rows", 8 * max(1, shape[-1]))),
        grid.component("weight_scale", scale, 1),
    ]
    if zeros is not None:
        components.append(grid.component("weight_zero_point", grid.checked(zeros, ("I8",)), 1))
    ledger.claim(
        _tensor(
            ledger, codes.name, shape, "int8", components, grid, g_idx, scale, 1,
            {"bits": 8, "zero": "" if zeros is None else "plain"},
        )
    )  # fmt: skip


def _tensor(
    ledger: Ledger,
    name: str,
    shape: tuple[int, ...],
    kind: str,
    components: list[Component],
    grid: Grid,
    g_idx: Stored | None,
    scale: Stored,
    unit: int,
    params: dict[str, object],
) -> Tensor:
    inputs = shape[-1]
    if g_idx is not None:
        if g_idx.dtype not in ("I32", "I64") or g_idx.shape != (inputs,) or not grid.by_rows:
            raise misfit(g_idx, f"I32 or I64 [{inputs}], beside scales [rows, groups]")
        components.append(Component("weight_g_idx", g_idx))
    elif inputs % grid.groups and grid.by_rows:
        raise misfit(scale, f"groups of one size: {grid.groups:,} do not divide {inputs:,} inputs")
    return Tensor(
        name=name,
        shape=shape,
        scheme="ct-pack-quantized" if kind == "packed" else "ct-int-quantized",
        encoding=f"ct-{kind}",
        components=tuple(components),
        unit_elems=max(1, unit * inputs),
        params={
            **params,
            "group_size": grid.size,
            "groups": grid.groups,
            "lines": grid.lines,
            "block_rows": grid.block_rows,
            "rows": grid.rows,
            "matrices": grid.matrices,
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
    """The numbers of a `weight_shape`, checked against the packed tensor but for its columns."""
    size = {"I64": 8, "I32": 4}.get(stored.dtype)
    rank = len(packed.shape)
    if size is None or rank not in (2, 3) or stored.shape != (rank,):
        raise misfit(stored, f"I64 or I32 [{rank}], for {packed.name!r} {list(packed.shape)}")
    file = files(stored.file)
    if stored.view is None:
        data = file.read(stored.offset, stored.nbytes)
    else:
        import numpy as np  # noqa: PLC0415 - only archives need more than a read

        from anamnesis.readers.raw import open_raw  # noqa: PLC0415

        raw = np.empty(stored.nbytes, np.uint8)
        open_raw(stored, file).read_into(0, raw)
        data = raw.tobytes()
    shape = tuple(
        int.from_bytes(data[at : at + size], "little", signed=True)
        for at in range(0, size * rank, size)
    )
    if shape[:-1] != packed.shape[:-1] or not 0 <= shape[-1] <= 32 * packed.shape[-1]:
        raise FormatError(
            f"{where(stored)}: says {list(shape)}, beside {packed.name!r} {packed.dtype} "
            f"{list(packed.shape)}"
        )
    return shape


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


def _refuse_foreign(ledger: Ledger, codes: Stored, stem: str) -> None:
    for part, what in _FOREIGN.items():
        if ledger.container.stored.get(stem + part) is not None:
            raise unsupported(codes, what, _IMPLEMENTED)


def _refuse_sparse(ledger: Ledger) -> None:
    """Layouts of 2:4 and unstructured sparsity: none of these tensors is a weight by itself."""
    stored = ledger.container.stored
    for one in ledger.free():
        prefix, dot, part = one.name.rpartition(".")
        stem = prefix + dot
        if part == "bitmask" and f"{stem}compressed" in stored:
            rows = f"{stem}row_offsets" in stored
            raise unsupported(one, "sparse-bitmask" if rows else "sparse-24-bitmask", _IMPLEMENTED)
        if part in ("scale_packed", "meta") and f"{stem}weight_packed" in stored:
            raise unsupported(one, "marlin-24", _IMPLEMENTED)
