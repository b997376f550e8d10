"""What a model folder has beside its weights, out of a GGUF's key/values."""

from __future__ import annotations

import json
from typing import Any, Literal

from anamnesis.limits import Limits
from anamnesis.names.view import family_of
from anamnesis.readers.model import Model

Dtype = Literal["bf16", "f16", "f32"]

_FILE_TYPES: dict[int, Dtype] = {
    0: "f32",
    1: "f16",
    32: "bf16",
}  # of llama_ftype, those that are not quantised
_DTYPES: dict[str, str] = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


def usual_dtype(model: Model) -> Dtype:
    """One dtype for a folder: that of most of the file's numbers, BF16 where they are quantised.

    `general.file_type` says it; a file without it is judged by its tensors.
    """
    stated = _FILE_TYPES.get(model.metadata.get("general.file_type", -1))
    if stated:
        return stated
    nbytes: dict[str, int] = {}
    for stored in model.stored.values():
        name = stored.dtype.lower()
        nbytes[name] = nbytes.get(name, 0) + stored.nbytes
    known: list[Dtype] = sorted(("bf16", "f16", "f32"), key=lambda name: -nbytes.get(name, 0))
    quantised = any(count > nbytes.get(known[0], 0) for count in nbytes.values())
    return "bf16" if quantised else known[0]


def describe(model: Model, dtype: str, limits: Limits) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The small files of a folder by name, and remarks on what could not be said."""
    family = family_of(model)
    config: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "torch_dtype": _DTYPES[dtype],
    }
    return {"config.json": json.dumps(config, indent=2).encode() + b"\n"}, ()
