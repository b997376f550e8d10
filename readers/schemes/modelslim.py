"""ModelSlim's INT8 for Ascend: W8A8 (static and dynamic) and W8A16.

| tensor | stored | |
|---|---|---|
| `X.weight` | I8 `[out, in]` | codes |
| `X.weight_scale` | F32, F16 or BF16 `[out, 1]` or `[out, groups]` | |
| `X.weight_offset` | the same; may be missing | zero point, a number like the scales |
| `X.input_scale`, `X.input_offset` | `[1]` | of activations: dropped |
| `X.deq_scale`, `X.quant_bias` | `[out]` | of the integer product: dropped |

    value = (code - offset) * scale

Static W8A8 may have no `weight_scale`: it is `deq_scale / input_scale` then, and `deq_scale` is
F32, or I64 with the bits of one (`kernels/int8_product.py`).

Where outliers of activations were suppressed, layers are of norms that the model's class does not
have: `NORM.anti.weight` and `NORM.anti.bias` beside `NORM.weight`, or a bias of an RMS norm, which
biases of the layers take back. These come out as they are, with a note.

`deq_scale` is the product of the two scales, and `quant_bias` takes the activation's offset out of
the integer product; neither is part of the weight, and a bias of the layer is `X.bias`. Types that
`quant_model_description.json` names and that are packed, compressed or rotated are refused by name.
Sources: https://gitee.com/ascend/msit msmodelslim (`QuantSaver`);
https://github.com/vllm-project/vllm-ascend vllm_ascend/quantization/w8a8.py, w8a16.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import first_of, misfit, need, unsupported
from anamnesis.readers.schemes._modelslim_config import description, is_modelslim
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor

_TYPES = ("W8A8", "W8A8_DYNAMIC", "W8A8_MIX", "W8A16")
_IMPLEMENTED = f"ModelSlim's {', '.join(_TYPES)}"
_OTHER_NORM = re.compile(r"norm\w*\.anti\.(weight|bias)$")
_RMS_BIAS = re.compile(r"^(?!.*vis).*layernorm\.bias$")
_OF_PRODUCTS = ("deq_scale", "quant_bias", "input_scale", "input_offset")


def resolve(ledger: Ledger) -> None:
    """Claim INT8 weights with their scales and offsets; drop what is of activations and products.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for other types of weights.
    """
    types, stated = description(ledger), is_modelslim(ledger)
    for stored in ledger.free():
        kind = types.get(stored.name) if stored.name.endswith(".weight") else None
        if not isinstance(kind, str) or (kind in _TYPES and stored.dtype == "I8"):
            kind = _kind_of_parts(types, stored.name)
        if kind != "FLOAT":
            raise unsupported(stored, f"ModelSlim's {kind[:40]}", _IMPLEMENTED)
        if stored.dtype == "I8" and stored.name.endswith(".weight"):
            offset = ledger.get(f"{stored.name}_offset")
            if offset is None and _claim_product(ledger, stored):
                continue
            if stated or (offset is not None and offset.dtype in SCALE_BITS):
                _claim(ledger, stored, offset)
    _note_norms(ledger)


def _kind_of_parts(types: Mapping[str, Any], weight: str) -> str:
    """What is said of a weight's scales and offsets where they are of other types than its own."""
    kinds = (types.get(f"{weight}_{part}") for part in ("scale", "offset"))
    other = (kind for kind in kinds if isinstance(kind, str) and kind not in _TYPES)
    return next(other, "FLOAT")


def _note_norms(ledger: Ledger) -> None:
    """Note norms that the layers are of and that the model's class does not take."""
    found = list(_other_norms(ledger))
    if found and any(tensor.scheme == "modelslim-int8" for tensor in ledger.tensors.values()):
        ledger.note(
            f"{first_of(found)}: of ModelSlim's suppression of outliers, "
            "which the layers are quantised for; a class that has no such norm leaves it out, and "
            "computes something else"
        )


def _other_norms(ledger: Ledger) -> Iterator[Stored]:
    rms = "rms_norm_eps" in ledger.configs.get("config.json", {})
    for stored in ledger.free():
        if _OTHER_NORM.search(stored.name) or (rms and _RMS_BIAS.search(stored.name)):
            yield stored


def _claim_product(ledger: Ledger, codes: Stored) -> bool:
    """Claim a matrix whose scale is in that of the integer product, if it has none of its own."""
    layer = codes.name.removesuffix("weight")
    product, inputs = ledger.get(f"{layer}deq_scale"), ledger.get(f"{layer}input_scale")
    if product is None or inputs is None or f"{codes.name}_scale" in ledger.container.stored:
        return False
    rows, columns = codes.shape if len(codes.shape) == 2 else (0, 0)
    if product.dtype not in (*SCALE_BITS, "I64") or math.prod(product.shape) != rows or not rows:
        raise misfit(product, f"{', '.join(SCALE_BITS)} or I64, one for each row of {codes.name!r}")
    if inputs.dtype not in SCALE_BITS or math.prod(inputs.shape) != 1:
        raise misfit(inputs, f"{', '.join(SCALE_BITS)}, one number")
    ledger.claim(
        Tensor(
            name=codes.name,
            shape=codes.shape,
            scheme="modelslim-int8",
            encoding="int8-product",
            components=(
                Component("payload", codes, Contiguous(8 * max(1, columns))),
                Component("deq_scale", product),
                Component("input_scale", inputs),
            ),
            unit_elems=max(1, columns),
            params={"rows": rows},
        )
    )
    _drop_products(ledger, layer)
    return True


def _claim(ledger: Ledger, codes: Stored, offset: Stored | None) -> None:
    scale = need(ledger, codes, f"{codes.name}_scale")
    tensor = int8_tensor(ledger, codes, scale, offset, [])
    ledger.claim(replace(tensor, scheme="modelslim-int8"))
    _drop_products(ledger, codes.name.removesuffix("weight"))


def _drop_products(ledger: Ledger, layer: str) -> None:
    for part in _OF_PRODUCTS:
        beside = ledger.get(layer + part)
        if beside is not None:
            ledger.drop(beside, "of activations or of the integer product, not of the weight")
