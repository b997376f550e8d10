"""FP8 weights and their scales, from every tool that writes them one code a byte.

| tool | weight | scale |
|---|---|---|
| DeepSeek, Qwen, transformers | `X.weight`, fused `X` | `X.weight_scale_inv`, `X_scale_inv` |
| compressed-tensors, ModelOpt, fbgemm, Quark | `X.weight`, `X` | `X.weight_scale`, `X_scale` |
| ModelOpt, stacked experts | `X` | `X_weight_scale` |
| DeepSeek-V4 | `X.weight` | `X.scale` |
| Mistral | `X.weight` | `X.qscale_weight` |
| ComfyUI, old | `X.weight` | `X.scale_weight`, and a tensor `scaled_fp8` in the file |
| ComfyUI | `X.weight` | `X.weight_scale`, and a mark (`_comfy.py`) |
| Qwen3.8's n-gram tables | `X.shard_0.weight`, … | `X.weight_scale`, one number |
| transformers, experts | `X.experts.0.up_proj.weight`, … | see `_fp8_transformers.py` |

All of them are multiplied with, whatever their names say (`_inv`); but GPTQModel divides by its
`weight_scale_inv`, as `weight_scale_semantics: inverse` in its configuration says, and a note does.
The name pairs a scale with its weight, the shapes tell what one scale covers (`_scale_grid.py`),
in any shard of the model.
The stacked matrices of `fbgemm_fp8` are Llama-4's experts, `[experts, in, out]`: their scales are
of the columns, `[experts, 1, out]` for `gate_up_proj` and `[experts, out, 1]` for `down_proj`.
Sources: https://github.com/deepseek-ai/DeepSeek-V3 README_WEIGHTS.md;
https://github.com/vllm-project/compressed-tensors; https://github.com/comfyanonymous/ComfyUI;
https://github.com/huggingface/transformers integrations/fbgemm_fp8.py
(`FbgemmFp8Llama4TextExperts`), and pull request 48368 for the n-gram tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._comfy import Mark, marks
from anamnesis.readers.schemes._errors import first_of, where
from anamnesis.readers.schemes._fp8_transformers import (
    drop_unused_scales,
    expert_scale,
    fused_layer,
)
from anamnesis.readers.schemes._refusal import STATE
from anamnesis.readers.schemes._scale_grid import (
    SCALE_DTYPES,
    Block,
    ScaleGrid,
    declared_blocks,
    is_declared,
    scale_grid,
    stack,
)
from anamnesis.readers.schemes._siblings import ACTIVATION_SCALES
from anamnesis.readers.schemes.base import Ledger

ENCODINGS = {
    "F8_E4M3": "fp8-e4m3",
    "F8_E4M3FNUZ": "fp8-e4m3fnuz",
    "F8_E5M2": "fp8-e5m2",
    "F8_E5M2FNUZ": "fp8-e5m2fnuz",
}
_COMFY_FORMATS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_COMFY_KINDS = ("", "_rowwise", "_blockwise")  # behind these, in convert_to_quant's files
_COMFY_BLOCK = 64  # of the last, where the mark does not say
_NAMES = {"tensor": "fp8-tensor", "channel": "fp8-channel", "block": "fp8-block", "mx": "mxfp8"}
# Endings of scales that are FP8 numbers themselves, of weights in other formats (NVFP4).
_SCALE_ENDINGS = ("_scale_inv", "_scale_2", "_scale", ".scales")
_WEIGHT = ".weight"
_SHARD = re.compile(r"\.shard_[0-9]{1,9}$")


def resolve(ledger: Ledger) -> None:
    """Claim FP8 weights with their scales; drop the marks and activation scales beside them.

    Codes without any scale are claimed only under `assume_unit_scale`. Raises FormatError for
    a scale that does not fit, or fits other blocks than the configuration's in two ways, and
    UnsupportedError for the scales of fused shards. Notes other grids than the configuration's.
    """
    if ledger.container.kind == "gguf":
        return  # a type among ggml's, with companions of its own
    if any(one.method == "sdnq" for one in ledger.stated):
        return  # SDNQ's `X.scale` may be one of groups, and its weights rotated
    declared = tuple(declared_blocks(ledger.quantization()))
    comfy = marks(ledger)
    layers = _Layers(ledger)
    claimed: list[str] = []
    for stored in ledger.free() if not ledger.dtypes.isdisjoint(ENCODINGS) else ():
        name = stored.name
        if stored.dtype not in ENCODINGS:
            continue
        if not name.endswith(_WEIGHT):  # nearly all are called so
            if _is_scale(ledger, name):
                continue
            if name.rpartition(".")[2] == "scaled_fp8" and math.prod(stored.shape) <= 2:
                ledger.drop(stored, "ComfyUI mark of an FP8 file")
                continue
        mark = comfy.get(_layer(name)) if comfy else None
        if mark and not _is_fp8(mark, stored):
            continue
        blocks = declared
        if mark and mark.format.endswith("_blockwise"):
            blocks = mark.block(_COMFY_BLOCK), *declared
        if layers.claim(stored, blocks):
            claimed.append(name)
            if mark and mark.stored:
                ledger.drop(mark.stored, "ComfyUI mark of an FP8 layer")
    _drop_activation_scales(ledger, claimed, drop_unused_scales(ledger))
    _settle_grids(ledger, declared)
    _note_own_scales(ledger, [name for name in claimed if ".shard_" in name])


def _note_own_scales(ledger: Ledger, shards: list[str]) -> None:
    """Note shards of a table with a scale of their own beside the one that is for all of it."""
    for name in shards:
        shared, tensor = _shared_scale(ledger, _layer(name)), ledger.tensors[name]
        if shared is not None and all(part.stored is not shared for part in tensor.components):
            ledger.note(
                f"{where(tensor.components[0].stored)}: decoded with the scale of its own; "
                f"{shared.name!r} is one for the whole table"
            )


def _settle_grids(ledger: Ledger, declared: Sequence[Block]) -> None:
    """Note grids of scales that are not those of the configuration's blocks, or refuse them.

    transformers (`Fp8Dequantize._dequantize_one`) makes blocks of what the grid divides, whatever
    the configuration says, and vLLM loads no such grid: where both lengths divide into the blocks
    that are taken here, transformers takes the same ones; otherwise nothing settles it.
    """
    if not declared:
        return
    surplus, other, alone = [], [], []
    size = ledger.quantization().get("weight_block_size")
    for tensor in ledger.tensors.values():
        if size and tensor.scheme == "fp8-tensor" and len(tensor.components) > 1:
            scale = tensor.components[1].stored
            if scale.name.endswith("_scale_inv") and not _is_one(tensor, declared):
                alone.append(tensor)
        if tensor.scheme == "fp8-block" and "grid" in tensor.params:
            if "stored_grid" in tensor.params:
                surplus.append(tensor)
            elif not is_declared(tensor.components[0].stored, tensor.params["block"], declared):
                other.append(tensor)
                if not _evenly(tensor) and size:
                    raise _contradiction(tensor, declared)
    if surplus:
        stored, used = (surplus[0].params[key][1:] for key in ("stored_grid", "grid"))
        ledger.note(
            f"{first_of(surplus)}: {_by(stored)} scales, and the configuration's blocks of "
            f"{_by(surplus[0].params['block'])} need {_by(used)}: those past them are unused"
        )
    if alone:
        ledger.note(
            f"{first_of(alone)}: one scale beside it, which is taken for all of it, and the "
            f"configuration's blocks of {', '.join(map(_by, declared))} are smaller"
        )
    if other:
        ledger.note(
            f"{first_of(other)}: the scales fit no block of the configuration "
            f"({', '.join(map(_by, declared))}); taken as blocks of {_by(other[0].params['block'])}"
        )


def _is_one(tensor: Tensor, declared: Sequence[Block]) -> bool:
    """Whether a matrix is no larger than a block of the configuration."""
    _, rows, columns = stack(tensor.components[0].stored)
    return any(rows <= bm and columns <= bn for bm, bn in declared)


def _evenly(tensor: Tensor) -> bool:
    """Whether the grid divides the matrix into whole blocks of the size that is taken."""
    _, rows, columns = stack(tensor.components[0].stored)
    (_, block_rows, block_columns), (bm, bn) = tensor.params["grid"], tensor.params["block"]
    return bool(rows == block_rows * bm and columns == block_columns * bn)


def _contradiction(tensor: Tensor, declared: Sequence[Block]) -> FormatError:
    weight, scale = (component.stored for component in tensor.components)
    return FormatError(
        f"{where(scale, weight)}: the scales fit no block of the configuration "
        f"({', '.join(map(_by, declared))}), and leave no whole blocks: "
        f"{_by(tensor.params['block'])} with a rest or equal parts, which nothing settles; the way "
        "out is a weight_block_size that is that of the file"
    )


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


class _Layers:
    """The FP8 layers of a model, of whom there may be a million: alike ones are read once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Of the names that a scale may have, those that any has.
        self._endings, self._in_module = (
            [ending for ending in endings if ledger.endings.any(ending)]
            for endings in (("_scale_inv", "_scale"), ("qscale_weight", "scale_weight"))
        )
        self._by_column = ledger.method() == "fbgemm-fp8"
        self._first: dict[object, Tensor] = {}  # by dtypes, shapes and declared blocks

    def claim(self, stored: Stored, declared: tuple[Block, ...]) -> bool:
        """Claim codes with their scale, or without one where that is assumed."""
        ledger, scale = self._ledger, self._scale_of(stored)
        if scale is not None:
            alike = stored.dtype, stored.shape, scale.dtype, scale.shape, declared
            first = self._first.get(alike)
            if first is not None:
                ledger.claim(_like(first, stored, scale))
            else:
                grid = scale_grid(stored, scale, declared, by_column=self._by_column)
                components = (_payload(stored), Component("scale", scale))
                first = _tensor(stored, _NAMES[grid.kind], components, grid)
                first = _divided(ledger, first) if inverse(ledger) else first
                self._first[alike] = first
                ledger.claim(first)
            return True
        if ledger.options.assume_unit_scale and not _other_scale(ledger, stored.name):
            _, rows, columns = stack(stored)
            grid = ScaleGrid("tensor", (max(1, rows), max(1, columns)), (1, 1, 1))
            ledger.claim(_tensor(stored, "fp8-unit", (_payload(stored),), grid))
            return True
        return False

    def _scale_of(self, stored: Stored) -> Stored | None:
        ledger, name = self._ledger, stored.name
        names = [name + ending for ending in self._endings]
        stem, dot, part = name.rpartition(".")
        if part != "weight":
            if len(stored.shape) == 3:
                names.append(f"{name}_weight_scale")  # ModelOpt's stacked experts
        elif self._in_module:
            names += [f"{stem}{dot}{ending}" for ending in self._in_module]
        found = [scale for one in names if (scale := ledger.get(one)) is not None]
        if len(found) > 1:
            raise FormatError(
                f"{stored.file.path}: tensor {name!r}: two scales, {found[0].name!r} and "
                f"{found[1].name!r}; allowed is one"
            )
        if not found and part == "weight":
            plain = ledger.get(f"{stem}{dot}scale")
            if plain is not None and plain.dtype in SCALE_DTYPES:
                return plain
            return _shared_scale(ledger, stem) or expert_scale(ledger, stored)
        return found[0] if found else None


def _like(first: Tensor, stored: Stored, scale: Stored) -> Tensor:
    """A layer that is like another one but for its name and its place."""
    payload = Component("payload", stored, first.components[0].placement)
    # By position, which takes a third of the time.
    return Tensor(
        stored.name,
        stored.shape,
        first.scheme,
        first.encoding,
        (payload, Component("scale", scale)),
        first.unit_elems,
        first.unit_multiple,
        first.out_dtype,
        first.params,
    )


def inverse(ledger: Ledger) -> bool:
    """Whether the configuration says that scales are inverses: GPTQModel's, which divides."""
    return ledger.quantization().get("weight_scale_semantics") == "inverse"


def _divided(ledger: Ledger, tensor: Tensor) -> Tensor:
    ledger.note(
        "FP8 codes are divided by their scales, since the configuration says "
        "weight_scale_semantics: inverse (GPTQModel); other tools multiply"
    )
    params = {**tensor.params, "codes": tensor.components[0].stored.dtype}
    return replace(tensor, encoding="fp8-divided", params=params)


def scaled(stored: Stored, scale: Stored) -> Tensor:
    """FP8 codes with one scale for all, for a row or a column, or for blocks of the usual size."""
    grid = scale_grid(stored, scale, [])
    components = (_payload(stored), Component("scale", scale))
    return _tensor(stored, _NAMES[grid.kind], components, grid)


def _payload(stored: Stored) -> Component:
    return Component("payload", stored, Contiguous(8 * max(1, stack(stored)[2])))


def _tensor(
    stored: Stored, scheme: str, components: tuple[Component, ...], grid: ScaleGrid
) -> Tensor:
    _, rows, columns = stack(stored)
    params = {"block": grid.block, "grid": grid.grid, "rows": max(1, rows)}
    if grid.axis is not None:
        params["axis"] = grid.axis
    if grid.stored is not None:
        params["stored_grid"] = grid.stored
    return Tensor(
        name=stored.name,
        shape=stored.shape,
        scheme=scheme,
        encoding=ENCODINGS[stored.dtype],
        components=components,
        unit_elems=max(1, columns),
        params=params,
    )


def _layer(name: str) -> str:
    """The module of `X.weight`; a parameter without that ending is a layer of its own."""
    return name.removesuffix(_WEIGHT)


def _shared_scale(ledger: Ledger, stem: str) -> Stored | None:
    """The one number of a table that is stored as `X.shard_0`, `X.shard_1`, and so on."""
    table = _SHARD.sub("", stem)
    if table == stem or f"{table}.weight" in ledger.container.stored:
        return None
    scale = ledger.container.stored.get(f"{table}.weight_scale")
    one = scale is not None and scale.dtype in SCALE_DTYPES and math.prod(scale.shape) == 1
    return scale if one else None


def _is_scale(ledger: Ledger, name: str) -> bool:
    """Whether an FP8 tensor is the scale of another weight, by both of their names."""
    stored = ledger.container.stored
    for ending in _SCALE_ENDINGS:
        if name.endswith(ending):
            base = name[: -len(ending)]
            layer = _layer(base)
            parts = (".weight", ".weight_packed", ".qweight")
            others = [base, f"{base}_qdata", *(layer + part for part in parts)]  # torchao's second
            return any(other in stored for other in others)
    return False


def _other_scale(ledger: Ledger, name: str) -> bool:
    """Whether a scale of an unknown kind stands beside a weight."""
    stem, dot, part = name.rpartition(".")
    names = [f"{name}{ending}" for ending in ("_scale_2", "_scales", "_scale_inv", "_scale")]
    if part == "weight":
        names += [f"{stem}{dot}{n}" for n in ("scale", "scales", "weight_global_scale", STATE)]
    if part == "_data":  # Quanto's
        names.append(f"{stem}{dot}_scale")
    if part.endswith("_qdata"):  # torchao's
        names.append(f"{name.removesuffix('qdata')}scale")
    found = (ledger.container.stored.get(n) for n in names)
    return any(s is not None and s.dtype not in ENCODINGS and s.nbytes > 0 for s in found)


def _is_fp8(mark: Mark, stored: Stored) -> bool:
    """Whether a mark is of codes like these; one that names no format is of what they are."""
    plain = not mark.rotation and not mark.empty
    known = _COMFY_FORMATS.get(stored.dtype, "")
    formats = {known + kind for kind in _COMFY_KINDS} | {f"rowwise-{known}"} if known else set()
    return plain and mark.format in ("", *formats)


def _drop_activation_scales(ledger: Ledger, claimed: list[str], others: set[str]) -> None:
    """Drop those of layers: `X.input_scale`, and `X_input_scale` of a fused `X`.

    The layers are those of the weights that were `claimed`, and `others`.
    """
    endings = tuple(ACTIVATION_SCALES)
    found = [stored for stored in ledger.free() if stored.name.endswith(endings)]
    names = claimed if found else []
    layers = others.union(map(_layer, names), (fused_layer(ledger, name) for name in names))
    for stored in found:
        name = stored.name
        mine = {name[: -len(e) - 1] for e in endings if name.endswith((f".{e}", f"_{e}"))}
        if mine & layers:
            ledger.drop(stored, "activation scale")
