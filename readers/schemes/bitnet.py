"""BitNet as transformers stores it: packed ternary matrices and one scale for each.

| part | stored |
|---|---|
| `X.weight` | U8 `[out / 4, in]`, four output rows a packed row |
| `X.weight_scale` | BF16, F16 or F32, one number |

Whether the scale multiplies or divides is nowhere in the tensors. `quantization_config` of
`config.json` says it: `linear_class: autobitlinear` multiplies (microsoft/bitnet-b1.58-2B-4T),
`bitlinear` divides, and is what transformers takes where nothing is said. Without a config that
speaks of BitNet these tensors are an error. What `quantization_mode: online` stores is dense.
Source: https://github.com/huggingface/transformers 5.23 src/transformers/integrations/bitnet.py,
utils/quantization_config.py (`BitNetQuantConfig`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Planar
from anamnesis.readers.schemes._errors import need, where
from anamnesis.readers.schemes.base import Ledger

_SCALES = ("BF16", "F16", "F32")
_PER_BYTE = 4
_CLASSES = {"autobitlinear": False, "bitlinear": True}  # whether the scale divides
_MODES = ("offline", "online")


def resolve(ledger: Ledger) -> None:
    """Claim U8 matrices with one scale, where the config speaks of BitNet.

    Raises FormatError for such a pair without that config, for a part that is missing or does not
    fit, and for settings that transformers would not take.
    """
    method = ledger.method()
    if method == "bitnet":
        divides = _divides(ledger)
        for weight in _matrices(ledger):
            ledger.claim(_tensor(ledger, weight, divides))
    elif not method and not ledger.quantization():
        for weight in _matrices(ledger):
            scale = ledger.get(f"{weight.name}_scale")
            if scale is not None and scale.dtype in _SCALES and math.prod(scale.shape) == 1:
                raise FormatError(
                    f"{where(weight)}: packed like BitNet, and no config.json beside it says "
                    "whether its scale multiplies (quantization_config.linear_class: "
                    "autobitlinear) or divides (bitlinear)"
                )


def _matrices(ledger: Ledger) -> Iterator[Stored]:
    for stored in ledger.free():
        last = stored.name.rpartition(".")[2]
        if last == "weight" and stored.dtype == "U8" and len(stored.shape) == 2:
            yield stored


def _divides(ledger: Ledger) -> bool:
    block = ledger.quantization()
    config = f"{ledger.container.files[0].path}: its quantization config"
    linear, mode = block.get("linear_class", "bitlinear"), block.get("quantization_mode", "offline")
    for key, value, allowed in (
        ("linear_class", linear, tuple(_CLASSES)),
        ("quantization_mode", mode, _MODES),
    ):
        if not isinstance(value, str) or value not in allowed:
            raise FormatError(f"{config}: {key}: {value!r:.60}; allowed is {' or '.join(allowed)}")
    if linear == "autobitlinear" and mode == "online":
        packed = next(_matrices(ledger), None)
        if packed is not None:
            raise FormatError(
                f"{where(packed)}: packed, but quantization_mode online says that the weights are "
                "dense"
            )
    return _CLASSES[linear]


def _tensor(ledger: Ledger, weight: Stored, divides: bool) -> Tensor:
    scale = need(ledger, weight, f"{weight.name}_scale", "BitNet's packed weights have one")
    if scale.dtype not in _SCALES or math.prod(scale.shape) != 1:
        raise FormatError(f"{where(scale)}: allowed is one number of {', '.join(_SCALES)}")
    lines, inputs = weight.shape
    if not lines or not inputs:
        raise FormatError(f"{where(weight)}: a packed matrix without elements")
    return Tensor(
        name=weight.name,
        shape=(lines * _PER_BYTE, inputs),
        scheme="bitnet",
        encoding="bitnet",
        components=(
            Component("payload", weight, Planar(8 * inputs, lines)),
            Component("weight_scale", scale),
        ),
        unit_elems=inputs,
        params={
            "bits": 2,
            "divides": divides,
            "in_features": inputs,
            "period": lines,
            "scale_dtype": scale.dtype,
            "rounding": ledger.options.rounding,
        },
    )
