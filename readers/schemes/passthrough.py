"""What no scheme claimed: dense tensors stay as they are, quantised leftovers are errors.

A leftover is never copied as if it were dense: a scale that nobody multiplied by, or codes that
nobody decoded, would make a wrong model. Names decide only together with evidence, since
routers and norms own tensors called `scale` too.
"""

from __future__ import annotations

import math
from functools import cache

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous, Placement
from anamnesis.readers.schemes.base import Ledger

# Scales of activations and of the key/value cache: they have no part in the weights.
ACTIVATION_SCALES = frozenset(
    "input_scale activation_scale input_global_scale k_scale v_scale output_scale q_scale "
    "kv_scale qscale_act input_scale_ub scale_input".split()
)

# The last part of a name that only quantised layouts use, and the method that it alone tells.
_PARTS = {
    "SCB": "",
    "W_q": "",
    "_data": "",
    "_weight_scale": "torchao without its metadata",
    "_weight_zero_point": "torchao without its metadata",
    "absmax": "",
    "comfy_quant": "ComfyUI quantised weights",
    "g_idx": "",
    "nested_absmax": "",
    "nested_quant_map": "",
    "q_groups": "EXL2",
    "q_invperm": "EXL2",
    "q_scale_max": "EXL2",
    "q_weight": "EXL2",
    "qbiases": "",
    "qscale_weight": "",
    "quant_map": "",
    "qweight": "",
    "qzeros": "",
    "scale_weight": "",
    "suh": "EXL3",
    "svh": "EXL3",
    "trellis": "EXL3",
    "weight_absmax": "",
    "weight_format": "",
    "weight_g_idx": "",
    "weight_global_scale": "",
    "weight_packed": "",
    "weight_scale": "",
    "weight_scale_2": "",
    "weight_scale_inv": "",
    "weight_scb": "",
    "weight_shape": "",
    "weight_zero_point": "",
}
# What `quant_method` may say when every tensor that it speaks of has been understood.
_IMPLEMENTED = (
    *("fp8", "fbgemm_fp8", "mxfp8", "gptq", "awq", "auto-round", "bitsandbytes", "metal"),
    *("compressed-tensors", "mxfp4", "bitnet", "hqq", "quanto", "quark", "torchao", ""),
)
_CODES = ("I8", "U8", "I16", "I32", "U32")


def resolve(ledger: Ledger) -> None:
    """Claim what is dense; raise for what is quantised and was consumed by no scheme."""
    # GGUF has no activation scales; its tensors have such names for other things.
    quantised = ledger.container.kind != "gguf" and any(
        t.quantised for t in ledger.tensors.values()
    )
    suspects: list[tuple[Stored, str]] = []
    for stored in ledger.free():
        part = stored.name.rpartition(".")[2]
        suspicion = _suspicion(ledger, stored, part)
        if suspicion is not None:
            suspects.append((stored, suspicion))
        elif quantised and part in ACTIVATION_SCALES:
            ledger.drop(stored, "activation scale")
        else:
            ledger.claim(dense(stored))
    if suspects:
        _refuse(ledger, suspects)


def dense(stored: Stored) -> Tensor:
    """A tensor that was never quantised: its numbers are its own.

    A strided view is read in whole slices along its first dimension.
    """
    strided = stored.view is not None and stored.view.strides is not None
    unit = max(1, math.prod(stored.shape[1:])) if strided else 1
    return Tensor(
        name=stored.name,
        shape=stored.shape,
        scheme="passthrough",
        encoding="copy",
        components=(Component("payload", stored, _rows_of(unit * DTYPES[stored.dtype].bits)),),
        unit_elems=unit,
        out_dtype=stored.dtype,
    )


@cache
def _rows_of(unit_bits: int) -> Placement:
    return Contiguous(unit_bits)


def _suspicion(ledger: Ledger, stored: Stored, part: str) -> str | None:
    """None for a dense tensor; else the method that this tensor alone tells, or ""."""
    known = DTYPES.get(stored.dtype)
    if known is None or known.kind == "code":
        return ""
    if part in _PARTS:
        return _PARTS[part]
    if part.startswith("_") and part.endswith("_qdata"):
        return "torchao without its metadata"
    if "quant_state" in part or ".quant_state." in stored.name:
        return ""
    if stored.dtype == "U8" and part.endswith("blocks") and len(stored.shape) > 2:
        return ""
    config = ledger.quantization().get("quant_method")
    if config and stored.dtype in _CODES and part == "weight" and len(stored.shape) > 1:
        return ""
    return None


def _refuse(ledger: Ledger, suspects: list[tuple[Stored, str]]) -> None:
    method = str(ledger.quantization().get("quant_method", ""))
    told = [(stored, name) for stored, name in suspects if name]
    codes = [(s, "") for s, _ in suspects if s.name.endswith("weight") and s.dtype in _CODES]
    stored, name = (told or codes or suspects)[0]
    where = f"{stored.file.path}: tensor {stored.name!r} ({stored.dtype} {list(stored.shape)})"
    others = f", and {len(suspects) - 1} more" if len(suspects) > 1 else ""
    if not name and _by_comfy(ledger):
        name = "ComfyUI quantised weights"
    if name or codes or method not in _IMPLEMENTED:
        raise UnsupportedError(
            f"{where}{others}: {name or method or 'codes of an unknown method'} is recognised and "
            f"not implemented; implemented are {_implemented()}"
        )
    if stored.dtype.startswith("F8_E") and stored.dtype != "F8_E8M0" and not _by_comfy(ledger):
        raise UnsupportedError(
            f"{where}{others}: FP8 codes without a scale; --assume-unit-scale takes them as a "
            "plain cast"
        )
    raise FormatError(
        f"{where}{others}: a quantisation tensor that no scheme consumed; the weight it belongs to "
        f"is missing, dense, or of another layout (quant_method: {method or 'none'})"
    )


def _by_comfy(ledger: Ledger) -> bool:
    """Whether ComfyUI's metadata speaks of formats; then FP8 codes are more than a plain cast."""
    return "_quantization_metadata" in ledger.container.metadata


def _implemented() -> str:
    from anamnesis.readers.schemes import SCHEMES  # noqa: PLC0415 - the table imports this room

    return ", ".join(SCHEMES)
