"""Layouts that tensors alone do not tell apart: which one was taken, for the user to know.

Only where no configuration names a method: one that does has said which layout it means.

| taken | could be | told by nothing when |
|---|---|---|
| NVFP4's and MXFP8's block scales in rows | ComfyUI's, in tiles of 128 by 4 | the tiles are whole |
| a scale a row | a scale a column | the matrix is square, and so are all others like it |
| AWQ's GEMV | GPTQ in groups of eight | always |
| MXFP4 in `weight_packed` | AutoRound's MXINT4 | always |
| INT8 `weight` with `weight_scale` | ComfyUI's ConvRot, its mark lost | always |
| an integer matrix called `weight` by itself | codes without their scales | always |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._integers import NARROW
from anamnesis.readers.schemes.base import Ledger

_WEIGHTS = ("weight", "weights", "_proj", "kernel")
_TILE_ROWS, _TILE_COLUMNS = 128, 4


def note_choices(ledger: Ledger) -> None:
    """Add a note for each kind of choice that the decoded tensors show."""
    if ledger.stated or ledger.container.kind == "gguf":
        return
    decoded = [t for t in ledger.tensors.values() if t.quantised]
    for chosen, said in _CHOICES:
        found = chosen(decoded)
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            first = found[0]
            ledger.note(
                f"{first.components[0].stored.file.path}: {first.name!r}{others}: {said}; no "
                "configuration beside the tensors says which"
            )


def note_integers(ledger: Ledger) -> None:
    """Add a note on integer matrices that pass as they are and are called like a weight."""
    if ledger.stated or ledger.container.kind == "gguf":
        return
    found = [
        tensor.components[0].stored
        for tensor in ledger.tensors.values()
        if tensor.out_dtype in NARROW and not tensor.quantised and len(tensor.shape) > 1
    ]
    found = [stored for stored in found if stored.name.endswith(_WEIGHTS)]
    if found:
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        ledger.note(
            f"{where(found[0])}{others}: integers by themselves, kept as they are; codes of a "
            "weight whose scales are missing look the same, and no configuration says which"
        )


def _in_tiles(decoded: Iterable[Tensor]) -> list[Tensor]:
    found = []
    for tensor in decoded:
        if tensor.encoding.endswith("-tiles"):
            continue  # a mark said so
        multiplied = tensor.scheme == "nvfp4" and tensor.params.get("global") == "multiply"
        if (multiplied or tensor.scheme == "mxfp8") and (scale := _part(tensor, "scale")):
            rows, columns = (1, 1, *scale.stored.shape)[-2:]
            if len(tensor.shape) == 2 and not rows % _TILE_ROWS and not columns % _TILE_COLUMNS:
                found.append(tensor)
    return found


def _square(decoded: Iterable[Tensor]) -> list[Tensor]:
    """Square matrices whose scales lie along one axis, unless others show which."""
    found = []
    for tensor in decoded:
        scale = _part(tensor, "scale")
        if tensor.scheme != "fp8-channel" or scale is None or len(tensor.shape) < 2:
            continue
        if len(scale.stored.shape) == len(tensor.shape) - 1:
            if tensor.shape[-1] != tensor.shape[-2]:
                return []
            found.append(tensor)
    return found


def _gemv(decoded: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in decoded if tensor.encoding == "awq-gemv"]


def _fp4(decoded: Iterable[Tensor]) -> list[Tensor]:
    return [t for t in decoded if t.scheme == "mxfp4" and _stored_as(t, "weight_packed", "U8")]


def _int8(decoded: Iterable[Tensor]) -> list[Tensor]:
    """Eight-bit integers in the inputs' order, without a zero point: what ConvRot has too."""
    return [
        tensor
        for tensor in decoded
        if tensor.scheme == "ct-int-quantized"
        and len(tensor.components) == 2
        and _stored_as(tensor, "weight", "I8")
    ]


def _stored_as(tensor: Tensor, part: str, dtype: str) -> bool:
    """Whether the codes of a tensor are in a stored one that is called `part`."""
    codes = tensor.components[0].stored
    return codes.dtype == dtype and codes.name.rpartition(".")[2] == part


def _part(tensor: Tensor, role: str) -> Component | None:
    return next((c for c in tensor.components if c.role == role), None)


_CHOICES: tuple[tuple[Callable[[Iterable[Tensor]], list[Tensor]], str], ...] = (
    (_in_tiles, "block scales taken to lie in rows; ComfyUI's lie in tiles, in the same shape"),
    (_square, "a square matrix, its scales taken to be one a row, not one a column"),
    (_gemv, "taken as AWQ GEMV; GPTQ in groups of eight inputs has the same shapes"),
    (_fp4, "taken as MXFP4; AutoRound's MXINT4 has the same tensors"),
    (_int8, "taken as integers times their scales; ComfyUI's ConvRot without its mark is the same"),
)
