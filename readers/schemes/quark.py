"""Quark's integers: INT4 in groups, AWQ's GEMM layout under other names, and INT8 as it is.

| part | stored |
|---|---|
| `X.weight` | I32 `[in, out / 8]`, nibbles in AWQ's order |
| `X.weight_scale` | BF16, F16 or F32 `[groups, out]` |
| `X.weight_zero_point` | I32 `[groups, out / 8]`; may be missing where codes are signed |

INT8 is I8 `[out, in]` with a scale `[]` or one a row `[out]`, and I8 zero points of that shape.

Neither the order of the nibbles nor their sign is in the tensors: `quantization_config` says them
(`export.pack_method`, and `weight.dtype` of all its groups of layers). Quark's FP8 and MXFP4 are
read by `fp8` and `fp4`. Source: amd-quark 0.13 torch/utils/pack.py,
torch/export/nn/modules/realquantizer.py (https://quark.docs.amd.com).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Strided
from anamnesis.readers.schemes._errors import misfit, missing, unsupported
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._quark_config import weight_specs
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor

_IMPLEMENTED = (
    "Quark's FP8, MXFP4, MXFP6, NVFP4, INT4 in groups with pack_method reorder, and INT8 with a "
    "scale a tensor or a row"
)
_ENCODINGS = {"int4": "quark-int4", "uint4": "awq-gemm"}
_PER_WORD = 8
_ROTATED = ("input_rotation", "input_prescale")


def resolve(ledger: Ledger) -> None:
    """Claim I32 weights with their scales, where the config speaks of Quark.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for another order, other numbers and rotated weights.
    """
    config = ledger.quantization()
    if ledger.method() != "quark":
        return
    specs = list(weight_specs(config))
    dtypes = {spec["dtype"] for spec in specs if spec["dtype"] in _ENCODINGS}
    int8 = [spec for spec in specs if spec["dtype"] == "int8"]
    for stored in ledger.free():
        stem, dot, part = stored.name.rpartition(".")
        if part in _ROTATED:
            raise unsupported(stored, f"Quark's rotated weights ({part})", _IMPLEMENTED)
        if part == "weight" and stored.dtype == "I32":
            ledger.claim(_tensor(ledger, stored, stem + dot, _encoding(stored, config, dtypes)))
        if part == "weight" and stored.dtype == "I8" and int8:
            ledger.claim(_int8(ledger, stored, int8))


def _int8(ledger: Ledger, codes: Stored, specs: list[Mapping[str, Any]]) -> Tensor:
    for spec in specs:
        axis, scheme = spec.get("ch_axis"), spec.get("qscheme")
        if scheme != "per_tensor" and (scheme != "per_channel" or axis not in (None, 0)):
            raise unsupported(
                codes, f"Quark's INT8 {scheme!r:.20}, axis {axis!r:.20}", _IMPLEMENTED
            )
    scale, zeros = (ledger.get(f"{codes.name}_{part}") for part in ("scale", "zero_point"))
    if scale is None:
        raise missing(ledger, codes, f"{codes.name}_scale")
    if zeros is not None and zeros.dtype != "I8":
        raise unsupported(zeros, f"Quark's INT8 with zero points of {zeros.dtype}", _IMPLEMENTED)
    tensor = int8_tensor(
        ledger, codes, _of_rows(scale, codes), zeros and _of_rows(zeros, codes), []
    )
    params = {**tensor.params, "rounding": "exact"}  # Quark multiplies in float32
    return replace(tensor, scheme="quark-int8", params=params)


def _of_rows(part: Stored, codes: Stored) -> Stored:
    """`[rows]` as `[rows, 1]`."""
    rows = codes.shape[:1]
    return replace(part, shape=(*rows, 1)) if part.shape == rows else part


def _encoding(stored: Stored, config: Mapping[str, Any], dtypes: set[str]) -> str:
    export = config.get("export")
    order = export.get("pack_method") if isinstance(export, Mapping) else None
    if order != "reorder":
        raise unsupported(stored, f"Quark's INT4 with pack_method {order!r:.40}", _IMPLEMENTED)
    if len(dtypes) != 1:
        found = " and ".join(sorted(dtypes)) or "neither int4 nor uint4"
        raise unsupported(stored, f"Quark's I32 weights of a config with {found}", _IMPLEMENTED)
    return _ENCODINGS[next(iter(dtypes))]


def _tensor(ledger: Ledger, codes: Stored, stem: str, encoding: str) -> Tensor:
    scale, zeros = ledger.get(f"{stem}weight_scale"), ledger.get(f"{stem}weight_zero_point")
    if scale is None or (zeros is None and encoding == "awq-gemm"):
        lacks = "weight_zero_point" if scale is not None else "weight_scale"
        raise missing(ledger, codes, stem + lacks)
    if len(codes.shape) != 2:
        raise misfit(codes, "a matrix")
    if ledger.get(f"{stem}weight_scale_2") is not None:
        raise unsupported(codes, "Quark's INT4 of what was rounded to FP8", _IMPLEMENTED)
    if not scale.shape:
        raise unsupported(codes, "Quark's INT4 with a scale a tensor", _IMPLEMENTED)
    inputs, words = codes.shape
    outputs = words * _PER_WORD
    if scale.shape in ((outputs,), (inputs,)):  # not transposed: `inputs` are the rows then
        raise unsupported(codes, "Quark's INT4 with a scale a channel", _IMPLEMENTED)
    groups = scale.shape[0] if len(scale.shape) == 2 else 0
    if scale.dtype not in SCALE_BITS or groups < 1 or scale.shape[1] != outputs or inputs % groups:
        raise misfit(
            scale, f"{', '.join(SCALE_BITS)} [groups, {outputs}], groups that divide {inputs:,}"
        )
    bits, line = SCALE_BITS[scale.dtype], max(1, words * 4)
    components = [
        Component("qweight", codes, Strided(4, line)),
        Component("scales", scale, Strided(bits, max(1, outputs * bits // 8))),
    ]
    if zeros is not None:
        if zeros.dtype in SCALE_BITS:
            raise unsupported(zeros, "Quark's zero points that are no integers", _IMPLEMENTED)
        if zeros.dtype != "I32" or zeros.shape != (groups, words):
            raise misfit(zeros, f"I32 {[groups, words]}")
        components.append(Component("qzeros", zeros, Strided(4, line)))
    return Tensor(
        name=codes.name,
        shape=(outputs, inputs),
        scheme="quark-int4",
        encoding=encoding,
        components=tuple(components),
        unit_elems=max(1, inputs),
        unit_multiple=_PER_WORD,
        params={
            "bits": 4,
            "group_size": max(1, inputs // groups),
            "act_order": False,
            "version": "gemm",
            "groups": groups,
            "in_features": inputs,
            "scale_dtype": scale.dtype,
            "rounding": "exact",  # Quark multiplies in float32
        },
        orientation="transposed",
    )
