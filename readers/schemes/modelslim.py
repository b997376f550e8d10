"""ModelSlim's INT8 for Ascend: W8A8 (static and dynamic) and W8A16.

| tensor | stored | |
|---|---|---|
| `X.weight` | I8 `[out, in]` | codes |
| `X.weight_scale` | F32, F16 or BF16 `[out, 1]` or `[out, groups]` | |
| `X.weight_offset` | the same; may be missing | zero point, a number like the scales |
| `X.input_scale`, `X.input_offset` | `[1]` | of activations: dropped |
| `X.deq_scale`, `X.quant_bias` | `[out]` | of the integer product: dropped |

    value = (code - offset) * scale

`deq_scale` is the product of the two scales, and `quant_bias` takes the activation's offset out of
the integer product; neither is part of the weight, and a bias of the layer is `X.bias`. Types that
`quant_model_description.json` names and that are packed, compressed or rotated are refused by name.
Sources: https://gitee.com/ascend/msit msmodelslim (`QuantSaver`);
https://github.com/vllm-project/vllm-ascend vllm_ascend/quantization/w8a8.py, w8a16.py.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import need, unsupported
from anamnesis.readers.schemes._modelslim_config import description, is_modelslim
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor

_TYPES = ("W8A8", "W8A8_DYNAMIC", "W8A8_MIX", "W8A16")
_IMPLEMENTED = f"ModelSlim's {', '.join(_TYPES)}"
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
            kind = "FLOAT"
        if kind != "FLOAT":
            raise unsupported(stored, f"ModelSlim's {kind[:40]}", _IMPLEMENTED)
        if stored.dtype == "I8" and stored.name.endswith(".weight"):
            offset = ledger.get(f"{stored.name}_offset")
            if stated or (offset is not None and offset.dtype in SCALE_BITS):
                _claim(ledger, stored, offset)


def _claim(ledger: Ledger, codes: Stored, offset: Stored | None) -> None:
    scale = need(ledger, codes, f"{codes.name}_scale")
    tensor = int8_tensor(ledger, codes, scale, offset, [])
    ledger.claim(replace(tensor, scheme="modelslim-int8"))
    layer = codes.name.removesuffix("weight")
    for part in _OF_PRODUCTS:
        beside = ledger.get(layer + part)
        if beside is not None:
            ledger.drop(beside, "of activations or of the integer product, not of the weight")
