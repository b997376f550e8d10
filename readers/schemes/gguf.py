"""GGUF: every quantised tensor is one logical tensor of blocks; one scheme name a ggml type.

NVFP4 alone has companions (`_repack_nvfp4` in https://github.com/ggml-org/llama.cpp,
conversion/base.py): beside `NAME.weight`, `NAME.scale` holds one float32 for the tensor or one
for each expert, and is left out where it is 1; `NAME.input_scale` is for activations.
"""

from __future__ import annotations

from anamnesis.errors import FormatError
from anamnesis.kernels import ENCODINGS
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.gguf_types import encoding_of
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes.base import Ledger


def resolve(ledger: Ledger) -> None:
    """Claim the quantised tensors of a GGUF model; the others are left as they are."""
    for stored in ledger.free():
        encoding = encoding_of(stored.dtype)
        row = ENCODINGS.get(encoding)
        if row is None or not row.block_bytes:
            continue
        components = [Component("payload", stored, Contiguous(row.block_bytes * 8))]
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
                shape=stored.shape,
                scheme=encoding,
                encoding=encoding,
                components=tuple(components),
                unit_elems=row.block_elems,
                params=params,
            )
        )


def _scale(ledger: Ledger, weight: Stored) -> Stored | None:
    """The scale of an NVFP4 tensor: float32 `[1]`, or `[experts]` of a stack of matrices."""
    base = weight.name.removesuffix(".weight")
    activations = ledger.get(f"{base}.input_scale")
    if activations is not None:
        ledger.drop(activations, "scale of NVFP4 activations; the weights do not depend on it")
    scale = ledger.get(f"{base}.scale")
    if scale is None:
        return None
    experts = weight.shape[0] if len(weight.shape) == 3 else 1
    if scale.dtype != "F32" or scale.shape not in ((1,), (experts,)):
        raise FormatError(
            f"{scale.file.path}: tensor {scale.name!r:.200}: {scale.dtype} {list(scale.shape)}; to "
            f"scale {weight.name!r:.200} it must be F32 [1] or [{experts}]"
        )
    return scale
