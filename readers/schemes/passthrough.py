"""What no scheme claimed: dense tensors stay as they are, quantised leftovers are errors.

A leftover is never copied as if it were dense: a scale that nobody multiplied by, or codes that
nobody decoded, would make a wrong model. Names decide only together with evidence, since
routers and norms own tensors called `scale` too.
"""

from __future__ import annotations

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Access, Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes.base import Ledger

# Scales of activations and of the key/value cache: they have no part in the weights.
ACTIVATION_SCALES = frozenset(
    "input_scale activation_scale input_global_scale k_scale v_scale output_scale q_scale "
    "kv_scale qscale_act input_scale_ub scale_input".split()
)

# The last part of a name that only quantised layouts use.
_PARTS = frozenset(
    "qweight qzeros g_idx q_weight q_scale q_scale_max q_groups q_invperm q_perm trellis suh svh "
    "weight_packed weight_scale weight_scale_inv weight_scale_2 weight_global_scale weight_shape "
    "weight_zero_point weight_g_idx qscale_weight scale_weight absmax nested_absmax quant_map "
    "nested_quant_map SCB weight_format W_q comfy_quant "
    "weight_qdata _weight_qdata _weight_scale qbiases weight_scb weight_absmax".split()
)

# Parts that tell a method which is recognised and not implemented.
_METHODS = {
    "q_weight": "EXL2",
    "q_groups": "EXL2",
    "trellis": "EXL3",
    "suh": "EXL3",
    "svh": "EXL3",
    "weight_packed": "compressed-tensors packed weights",
    "W_q": "HQQ",
    "_blocks": "MXFP4 expert blocks",
    "comfy_quant": "ComfyUI quantised weights",
    "weight_scale_2": "NVFP4 (ModelOpt)",
    "qbiases": "Metal affine",
    "_weight_qdata": "torchao",
}
_CODE_WEIGHTS = ("I8", "U8", "I16", "I32", "U32")


def resolve(ledger: Ledger) -> None:
    """Claim what is dense; raise for what is quantised and was consumed by no scheme."""
    quantised = any(t.quantised for t in ledger.tensors.values())
    method = str(ledger.quantization().get("quant_method", ""))
    for stored in ledger.free():
        part = stored.name.rpartition(".")[2]
        if quantised and part in ACTIVATION_SCALES:
            ledger.drop(stored, "activation scale")
            continue
        _refuse_leftover(ledger, stored, part, method)
        ledger.claim(dense(stored))


def dense(stored: Stored) -> Tensor:
    """A tensor that was never quantised: its numbers are its own."""
    bits = DTYPES[stored.dtype].bits
    return Tensor(
        name=stored.name,
        shape=stored.shape,
        scheme="passthrough",
        encoding="copy",
        components=(Component("payload", stored, Access("rows", bits)),),
        unit_elems=1,
        out_dtype=stored.dtype,
    )


def _refuse_leftover(ledger: Ledger, stored: Stored, part: str, method: str) -> None:
    where = f"{stored.file.path}: tensor {stored.name!r} ({stored.dtype} {list(stored.shape)})"
    if stored.dtype.startswith("F8_E") and stored.dtype != "F8_E8M0":
        raise UnsupportedError(
            f"{where}: FP8 codes without a scale; pass --assume-unit-scale if they are a plain cast"
        )
    known = DTYPES.get(stored.dtype)
    if known is None or known.kind == "code":
        raise UnsupportedError(f"{where}: {_why(part, method)}")
    if part in _METHODS or _is_mlx(ledger, stored):
        raise UnsupportedError(f"{where}: {_why(part if part in _METHODS else 'scales', method)}")
    if part in _PARTS or "quant_state" in stored.name:
        raise FormatError(
            f"{where}: a quantisation tensor that no scheme consumed; its weight is missing, "
            f"dense, or of a layout that is not implemented (quant_method: {method or 'none'})"
        )
    if stored.dtype == "U8" and stored.name.endswith(("_blocks", "_scales")):
        raise UnsupportedError(f"{where}: {_why('_blocks', method)}")
    if method and stored.dtype in _CODE_WEIGHTS and part == "weight" and len(stored.shape) > 1:
        raise UnsupportedError(f"{where}: {_why(part, method)}")


def _is_mlx(ledger: Ledger, stored: Stored) -> bool:
    stem, _, part = stored.name.rpartition(".")
    if part == "weight" and stored.dtype == "U32":
        return ledger.get(f"{stem}.scales") is not None
    return False


def _why(part: str, method: str) -> str:
    from anamnesis.readers.schemes import SCHEMES  # noqa: PLC0415 - the table imports this room

    name = _METHODS.get(part) or ("MLX affine" if part == "scales" else method) or "unknown codes"
    return f"{name}: recognised, not implemented; implemented are {', '.join(sorted(SCHEMES))}"
