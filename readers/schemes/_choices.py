"""Layouts that tensors alone do not tell apart: which one was taken, for the user to know.

Mostly where no configuration names a method: one that does has said which layout it means. But few
say along which axis scales lie, and one may name another FP4 format than the tensors have.

| taken | could be | undecided when |
|---|---|---|
| NVFP4's and MXFP8's block scales in rows | ComfyUI's, in tiles of 128 by 4 | the tiles are whole |
| a scale a row (`[n]`), or a column (`[1, n]`) | the other | all such matrices are square |
| AWQ's GEMV | GPTQ in groups of eight | always |
| MXFP4 in `weight_packed` | AutoRound's MXINT4 | always, under a method too that names neither |
| INT8 `weight` with `weight_scale` | ComfyUI's ConvRot, its mark lost | always |
| integers in equal groups | blocks of one row, the last one cut | no size is stated |
| integers or flags by themselves | codes without their scales | no buffer is called so |
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes._integers import NARROW, is_buffer, is_many
from anamnesis.readers.schemes._stated import Stated, texts
from anamnesis.readers.schemes.base import Ledger
from anamnesis.words import and_more

_WEIGHTS = ("weight", "weights", "_proj", "kernel")
_WHOLE = frozenset(name for name, row in DTYPES.items() if row.kind in ("bool", "int"))
_TILE_ROWS, _TILE_COLUMNS = 128, 4
_AXIS = re.compile(r"channel|(^|[^a-z])row|ptpc", re.IGNORECASE)
_FORMAT = re.compile(r"(?:w4a(?:4|8|16)[-_])?((?:mx|nv)[-_]?fp[468])(?![0-9])")
_MX = re.compile(r"mx[-_]?(fp|int)|^float$", re.IGNORECASE)
_MXFP4 = "taken as MXFP4; AutoRound's MXINT4 has the same tensors"
_MLX = ("mlx-mxfp4", "mlx-mxfp8", "mlx-nvfp4")
_SMALL = ("mxfp4", "mxfp6", "mxfp8", "nvfp4")
_INTEGERS = ("ct-int-quantized", "ct-pack-quantized")
_GROUPS = ("block_structure", "group_size", "weight_block_size")
_BLOCKS = (16, 32, 64, 128, 256, 512)  # of one row, in what tools write
_DEPTH = 16
_FEW = 8


def note_choices(ledger: Ledger) -> None:
    """Add a note for each kind of choice that the decoded tensors show."""
    if ledger.container.kind == "gguf":
        return
    decoded = _Decoded(ledger)
    which = "no configuration beside the tensors says which"
    for chosen, said in () if ledger.stated else _CHOICES:
        _note(ledger, chosen(decoded), f"{said}; {which}")
    if ledger.stated and not any(_says_mx(one) for one in ledger.stated):
        _note(ledger, _fp4(decoded), f"{_MXFP4}; the configuration says neither")
    if not any(_says_axis(one) for one in ledger.stated):
        _note(ledger, _square(decoded), f"{_SQUARE}; {which}")
    if not any(_says_groups(one.block, 0) for one in ledger.stated):
        _note(ledger, _uneven(decoded), f"{_UNEVEN}; {_NO_SIZE if ledger.stated else which}")
    named = {name for one in ledger.stated for name in _formats(one.block, one.method)}
    other = decoded.of(*(scheme for scheme in _SMALL if named and scheme not in named))
    _note_modes(ledger, decoded)
    said = f"taken as {other[0].scheme} by its tensors" if other else ""
    _note(ledger, other, f"{said}, and the configuration speaks of {', '.join(sorted(named))}")


def _note(ledger: Ledger, found: list[Tensor], said: str) -> None:
    if found:
        others = and_more(len(found))
        first = found[0]
        ledger.note(f"{first.components[0].stored.file.path}: {first.name!r}{others}: {said}")


class _Decoded:
    """The decoded tensors by their schemes: no way through a million for each question."""

    def __init__(self, ledger: Ledger) -> None:
        self._by_scheme: dict[str, list[Tensor]] = defaultdict(list)
        for tensor in ledger.tensors.values():
            self._by_scheme[tensor.scheme].append(tensor)

    def of(self, *schemes: str) -> list[Tensor]:
        """The tensors of these schemes."""
        return [tensor for scheme in schemes for tensor in self._by_scheme.get(scheme, ())]


def _note_modes(ledger: Ledger, decoded: _Decoded) -> None:
    """MLX's modes with U8 scales, where the configuration names another, or none: then affine."""
    blocks = [one.block for one in ledger.stated]
    blocks += [own for block in blocks for own in block.values() if isinstance(own, Mapping)]
    modes = {str(block["mode"]) for block in blocks if block.get("mode")}
    modes = modes | {one.named for one in ledger.stated if f"mlx-{one.named}" in _MLX} or {"affine"}
    other = decoded.of(*(scheme for scheme in _MLX if scheme.removeprefix("mlx-") not in modes))
    if ledger.stated:
        said = f"and the configuration says mode {', '.join(sorted(modes))}, or none"
        _note(ledger, other, f"taken as {other[0].scheme} by its tensors, {said}" if other else "")


def _says_axis(stated: Stated) -> bool:
    """Whether a method, or a text of its configuration, says that rows or channels have scales."""
    return stated.method == "fbgemm-fp8" or any(_AXIS.search(t) for t in texts(stated.block))


def _says_mx(stated: Stated) -> bool:
    """Whether a method, or a text of its configuration, says which of MX's numbers these are."""
    return any(_MX.search(text) for text in (stated.method, *texts(stated.block)))


def _says_groups(value: object, depth: int) -> bool:
    """Whether a block says, at any depth, how many numbers share a scale."""
    if isinstance(value, list):
        return depth < _DEPTH and any(_says_groups(one, depth + 1) for one in value)
    return isinstance(value, Mapping) and any(
        bool(one) if key in _GROUPS else depth < _DEPTH and _says_groups(one, depth + 1)
        for key, one in value.items()
    )


def _formats(block: Mapping[str, Any], method: str) -> Iterator[str]:
    """The small formats that a block names, in the spelling of schemes."""
    for text in (method, *texts(block)):
        found = _FORMAT.match(text.lower())
        if found:
            yield found[1].replace("-", "").replace("_", "")


def note_integers(ledger: Ledger) -> None:
    """Add a note on integers and flags that pass as they are, and may be codes or signs of weights.

    In a model these are matrices of any name that is not a buffer's, and long arrays of narrow
    integers. Other containers hold arrays of anything: there it takes the name of a weight, or
    floats beside it of which there are as many as a matrix has rows or columns.
    """
    gguf = ledger.container.kind == "gguf"
    if ledger.stated or (gguf and "I8" not in ledger.dtypes):
        return
    model = ledger.container.kind in ("pth", "safetensors")
    numbers = _sizes_of_floats(ledger) if ledger.container.kind == "npz" else None
    found = [
        tensor.components[0].stored
        for tensor in ledger.tensors.values()
        if tensor.out_dtype in _WHOLE and not tensor.quantised
    ]
    if gguf:  # llama.cpp keeps tables of experts in I32, and no I8
        found = [stored for stored in found if stored.dtype == "I8" and len(stored.shape) > 1]
    else:
        found = [one for one in found if not is_buffer(one) and _may_be_codes(one, model, numbers)]
    if found:
        ledger.note(
            f"{first_of(found)}: integers by themselves, kept as they are; codes of a "
            "weight whose scales are missing look the same, and no configuration says which"
        )


def note_numbers(ledger: Ledger) -> None:
    """Add a note on JSON beside the model with numbers for its tensors: scales, perhaps."""
    stored = ledger.container.stored
    for name, config in ledger.configs.items() if ledger.container.kind != "gguf" else ():
        found = [stored[k] for k, value in config.items() if k in stored and _is_numbers(value)]
        if found:
            ledger.note(
                f"{first_of(found)}: {name} beside the model gives numbers for it, "
                "which were not used; if they are scales, the weights are not whole without them"
            )


def _is_numbers(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_numbers, value[:_FEW]))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sizes_of_floats(ledger: Ledger) -> set[int]:
    """How many numbers arrays of floats have: as many as scales of a matrix would."""
    floats = (t for t in ledger.tensors.values() if DTYPES[t.out_dtype].kind == "float")
    return {math.prod(tensor.shape) for tensor in floats}


def _may_be_codes(stored: Stored, model: bool, numbers: set[int] | None) -> bool:
    if stored.dtype == "BOOL":
        return model and len(stored.shape) > 1
    if not model:
        scaled = numbers is None or not numbers.isdisjoint((*stored.shape, 1))
        scaled = scaled and len(stored.shape) == 2
        weight = stored.dtype in NARROW and (scaled or stored.name.endswith(_WEIGHTS))
        return weight and len(stored.shape) > 1
    return is_many(stored) and math.prod(stored.shape) > 1


def _in_tiles(decoded: _Decoded) -> list[Tensor]:
    found = []
    for tensor in decoded.of("mxfp8", "nvfp4"):
        if tensor.coding.endswith("-tiles"):
            continue  # a mark said so
        multiplied = tensor.scheme == "nvfp4" and tensor.params.get("global") == "multiply"
        if (multiplied or tensor.scheme == "mxfp8") and (scale := _part(tensor, "scale")):
            rows, columns = (1, 1, *scale.stored.shape)[-2:]
            if len(tensor.shape) == 2 and not rows % _TILE_ROWS and not columns % _TILE_COLUMNS:
                found.append(tensor)
    return found


def _square(decoded: _Decoded) -> list[Tensor]:
    """Square matrices whose scales lie along one axis, unless others show which."""
    found = []
    for tensor in decoded.of("fp8-channel"):
        scale = _part(tensor, "scale")
        if scale is None or len(tensor.shape) < 2:
            continue
        shape = scale.stored.shape
        if len(shape) == len(tensor.shape) - 1 or (1, *shape)[-2] == 1:
            if tensor.shape[-1] != tensor.shape[-2]:
                return []
            found.append(tensor)
    return found


def _gemv(decoded: _Decoded) -> list[Tensor]:
    return [tensor for tensor in decoded.of("awq") if tensor.encoding == "awq-gemv"]


def _fp4(decoded: _Decoded) -> list[Tensor]:
    return [t for t in decoded.of("mxfp4") if _stored_as(t, "weight_packed", "U8")]


def _int8(decoded: _Decoded) -> list[Tensor]:
    """Eight-bit integers in the inputs' order, without a zero point: what ConvRot has too."""
    return [
        tensor
        for tensor in decoded.of("ct-int-quantized")
        if len(tensor.components) == 2 and _stored_as(tensor, "weight", "I8")
    ]


def _uneven(decoded: _Decoded) -> list[Tensor]:
    """Groups of an odd size, where blocks of a usual one and what is left make as many scales."""
    found = []
    for tensor in decoded.of(*_INTEGERS):
        inputs, groups = tensor.params.get("in_features", 0), tensor.params.get("groups", 0)
        if groups < 2 or tensor.params.get("act_order"):
            continue
        if tensor.params["group_size"] not in _BLOCKS:
            fits = any(-(-inputs // block) == groups for block in _BLOCKS)
            found += [tensor] if fits else []
    return found


def _stored_as(tensor: Tensor, part: str, dtype: str) -> bool:
    """Whether the codes of a tensor are in a stored one that is called `part`."""
    codes = tensor.components[0].stored
    return codes.dtype == dtype and codes.name.rpartition(".")[2] == part


def _part(tensor: Tensor, role: str) -> Component | None:
    return next((c for c in tensor.components if c.role == role), None)


_UNEVEN = "taken in groups of equal size; blocks of one row, the last one cut, fit as well"
_NO_SIZE = "the configuration states no size of groups or blocks"
_SQUARE = "a square matrix, its scales taken to be one a row ([n]), or one a column ([1, n])"
_CHOICES: tuple[tuple[Callable[[_Decoded], list[Tensor]], str], ...] = (
    (_in_tiles, "block scales taken to lie in rows; ComfyUI's lie in tiles, in the same shape"),
    (_gemv, "taken as AWQ GEMV; GPTQ in groups of eight inputs has the same shapes"),
    (_fp4, _MXFP4),
    (_int8, "taken as integers times their scales; ComfyUI's ConvRot without its mark is the same"),
)
