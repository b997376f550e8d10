"""GGUF: every quantised tensor is one logical tensor of blocks; one scheme name a ggml type.

NVFP4 and FP8 have companions (`_repack_nvfp4` in https://github.com/ggml-org/llama.cpp,
conversion/base.py): beside `NAME.weight`, `NAME.scale` holds one float32 for the tensor or one
for each expert, and is left out where it is 1; `NAME.input_scale` is for activations.

Quantisers of diffusion models take matrices only: what was a convolution is stored as one, and
`comfy.gguf.orig_shape.NAME` in the metadata, an array, is the shape that it had, outermost
dimension first, with the same elements in the same order
(https://github.com/city96/ComfyUI-GGUF tools/convert.py, loader.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

from anamnesis.errors import FormatError
from anamnesis.kernels import ENCODINGS
from anamnesis.limits import RANK
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.gguf_types import FP8, I2_S, GgmlType, encoding_of, type_named
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.fp8 import ENCODINGS as FP8_ENCODINGS
from anamnesis.readers.schemes.passthrough import dense

_SHAPE = "comfy.gguf.orig_shape."
_E5M2 = next(number for number, name in FP8.items() if name == "F8_E5M2")


def resolve(ledger: Ledger) -> None:
    """Claim the quantised tensors of a GGUF model, and the others whose shape the metadata says.

    Raises FormatError for a shape of another number of elements, and for scales that do not fit.
    """
    shaped = any(str(key).startswith(_SHAPE) for key in ledger.container.metadata)
    rows = {dtype: encoding_of(dtype) for dtype in {s.dtype for s in ledger.free()}}
    types = {dtype: found[1] if (found := type_named(dtype)) else None for dtype in rows}
    for stored in ledger.free():
        shape = _shape(ledger, stored) if shaped else stored.shape
        if stored.dtype in FP8.values():
            _claim_fp8(ledger, stored, shape)
            continue
        kind = types[stored.dtype]
        if kind is not None and stored.dtype == I2_S:
            ledger.claim(_ternary(ledger, stored, shape, kind))
            continue
        if kind is not None and kind.rows > 1:
            ledger.claim(_repacked(ledger, stored, shape, kind))
            continue
        encoding = rows[stored.dtype]
        row = ENCODINGS.get(encoding)
        if row is None or not row.block_bytes:
            if shape != stored.shape:
                ledger.claim(replace(dense(stored), shape=shape))
            continue
        unit, nbytes = row.block_elems, row.block_bytes
        if row.row_meta:  # a unit is a row, with what stands before its blocks
            unit = max(row.block_elems, stored.shape[-1])
            nbytes = row.row_meta + unit // row.block_elems * row.block_bytes
        components = [Component("payload", stored, Contiguous(8 * nbytes))]
        params: dict[str, int] = {}
        if stored.dtype == "NVFP4":
            scale = _scale(ledger, stored)
            if scale is not None:
                components.append(Component("scale", scale))
                blocks = stored.nbytes // row.block_bytes
                params["blocks_per_scale"] = blocks // max(1, scale.shape[0])
        ledger.claim(
            Tensor(
                name=stored.name,
                shape=shape,
                scheme=encoding,
                encoding=encoding,
                components=tuple(components),
                unit_elems=unit,
                params=params,
            )
        )


def _repacked(ledger: Ledger, stored: Stored, shape: tuple[int, ...], kind: GgmlType) -> Tensor:
    """A tensor of one of ik_llama.cpp's types of rows that are repacked together."""
    if len(stored.shape) < 2 or stored.shape[-2] % kind.rows:
        raise misfit(stored, f"matrices of whole groups of {kind.rows} rows")
    if kind.rows == 8 and kind.plain != "MXFP4":
        ledger.note(
            f"{stored.file.path}: {kind.name} is read as eight rows together, as ik_llama.cpp has "
            "read it since February 2025; before, this type was of four"
        )
    columns = stored.shape[-1]
    row_bytes = kind.row_meta + columns // kind.block_elems * kind.block_bytes
    params: dict[str, object] = {"halves": kind.name == "IQ1_M_R4"}
    if kind.plain:
        params = {"plain": encoding_of(kind.plain), "rows": kind.rows}
    return Tensor(
        name=stored.name,
        shape=shape,
        scheme=encoding_of(stored.dtype),
        encoding="interleaved" if kind.plain else "gguf-iq1-rows",
        components=(Component("payload", stored, Contiguous(8 * kind.rows * row_bytes)),),
        unit_elems=kind.rows * max(1, columns),
        params=params,
    )


def _ternary(ledger: Ledger, stored: Stored, shape: tuple[int, ...], kind: GgmlType) -> Tensor:
    """A tensor of bitnet.cpp's I2_S: codes, and the scale behind them."""
    ledger.note(
        f"{stored.file.path}: I2_S is read in blocks of {kind.block_elems}, as bitnet.cpp's "
        "converters and its builds for x86 write it; llama-quantize built for ARM, or without "
        "ACT_PARALLEL, packs the same codes in another order, of which the file says nothing"
    )
    nbytes = stored.nbytes - kind.tail
    scale = replace(stored, dtype="F32", shape=(1,), offset=stored.offset + nbytes, nbytes=4)
    return Tensor(
        name=stored.name,
        shape=shape,
        scheme="gguf-i2-s",
        encoding="i2-s",
        components=(
            Component("payload", replace(stored, nbytes=nbytes), Contiguous(8 * kind.block_bytes)),
            Component("scale", scale),
        ),
        unit_elems=kind.block_elems,
    )


def _claim_fp8(ledger: Ledger, stored: Stored, shape: tuple[int, ...]) -> None:
    """One byte an element; ggml has the type for itself, so no scale means 1."""
    scale = _scale(ledger, stored)
    experts = 1 if scale is None else scale.shape[0]
    columns = max(1, stored.shape[-1] if stored.shape else 1)
    rows = max(1, math.prod(stored.shape) // columns // max(1, experts))
    ledger.claim(
        Tensor(
            name=stored.name,
            shape=shape,
            scheme="fp8-unit" if scale is None else "fp8-tensor",
            encoding=FP8_ENCODINGS[stored.dtype],
            components=(
                Component("payload", stored, Contiguous(8 * columns)),
                *(() if scale is None else (Component("scale", scale),)),
            ),
            unit_elems=columns,
            params={"block": (rows, columns), "grid": (experts, 1, 1), "rows": rows},
        )
    )
    if stored.dtype == "F8_E5M2":
        ledger.note(
            f"{stored.file.path}: FP8 tensors of E5M2 have the number {_E5M2} that "
            "stable-diffusion.cpp gave this type; ggml has one for E4M3 alone"
        )


def _shape(ledger: Ledger, stored: Stored) -> tuple[int, ...]:
    """A tensor's shape before it was made a matrix; its own where the metadata says nothing."""
    key = f"{_SHAPE}{stored.name}"
    found = ledger.container.metadata.get(key)
    if found is None:
        return stored.shape
    sizes = list(found) if isinstance(found, list | tuple) and len(found) <= RANK else []
    whole = bool(sizes) and all(type(size) is int and size >= 0 for size in sizes)
    if not whole or math.prod(sizes) != math.prod(stored.shape):
        raise FormatError(
            f"{stored.file.path}: metadata {key:.200}: found {found!r:.100}; allowed are sizes of "
            f"{math.prod(stored.shape):,} elements, as stored in {list(stored.shape)}"
        )
    return tuple(sizes)


def _is_of_router(ledger: Ledger, base: str) -> bool:
    """Whether the scale of experts is their router's, which the model has as one of its own.

    llama.cpp multiplies what Gemma 4's experts give by it (conversion/gemma.py,
    `router.per_expert_scale`), whatever their blocks are: a scale of NVFP4 can only be a part of
    it.
    """
    gemma = ledger.container.metadata.get("general.architecture") == "gemma4"
    return gemma and base.endswith(".ffn_down_exps")


def _scale(ledger: Ledger, weight: Stored) -> Stored | None:
    """The scale of NVFP4 or FP8: float32 `[1]`, or `[experts]` of a stack of matrices."""
    base = weight.name.removesuffix(".weight")
    activations = ledger.get(f"{base}.input_scale")
    if activations is not None:
        ledger.drop(activations, "scale of activations; the weights do not depend on it")
    scale = ledger.get(f"{base}.scale")
    if scale is None or _is_of_router(ledger, base):
        return None
    experts = weight.shape[0] if len(weight.shape) == 3 else 1
    if scale.dtype != "F32" or scale.shape not in ((1,), (experts,)):
        raise FormatError(
            f"{scale.file.path}: tensor {scale.name!r:.200}: {scale.dtype} {list(scale.shape)}; to "
            f"scale {weight.name!r:.200} it must be F32 [1] or [{experts}]"
        )
    return scale
