"""GPTQModel's FP8 and ggml blocks: what is said and refused; values are in tests/conformance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from small_models import ledger_of

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

FP8 = {"m.weight": ("F8_E4M3", (32, 64)), "m.weight_scale_inv": ("F32", (32,))}
Q8 = {"m.qweight": ("U8", (32, 68)), "m.bias": ("F16", (32,))}
GGUF = {"quant_method": "gguf", "bits": 8, "format": "q_0"}


def resolved(parts: Any, about: Mapping[str, Any], **config: Any) -> Ledger:
    document = {**config, "quantization_config": about}
    ledger = ledger_of(parts, configs={"config.json": document})
    resolve(ledger)
    return ledger


def test_a_scale_is_divided_by_only_where_the_configuration_says_so() -> None:
    plain = resolved(FP8, {"quant_method": "fp8"})
    assert plain.tensors["m.weight"].encoding == "fp8-e4m3"
    assert not plain.notes
    about = {"quant_method": "fp8", "weight_scale_semantics": "inverse"}
    divided = resolved(FP8, about)
    assert divided.tensors["m.weight"].encoding == "fp8-divided"
    assert "divided by their scales" in divided.notes[0]
    with pytest.raises(UnsupportedError, match="weight_scale_semantics: 'forward'"):
        resolved(FP8, {**about, "weight_scale_semantics": "forward"})


@pytest.mark.parametrize(
    ("about", "encoding"),
    [
        ({}, "gguf-q8-0"),
        ({"format": None}, "gguf-q8-0"),
        ({"format": "gguf"}, "gguf-q8-0"),
    ],
)
def test_the_type_is_the_configurations(about: Any, encoding: str) -> None:
    tensor = resolved(Q8, GGUF | about).tensors["m.weight"]
    assert (tensor.encoding, tensor.shape) == (encoding, (32, 64))


@pytest.mark.parametrize(
    ("parts", "about", "error"),
    [
        (Q8, {"bits": 7}, UnsupportedError),
        (Q8, {"bits": 3, "format": None}, UnsupportedError),
        (Q8, {"bits": "8", "format": "gguf"}, UnsupportedError),
        (Q8, {"format": "q_9"}, UnsupportedError),
        (Q8, {"format": "iq_xs"}, UnsupportedError),
        (Q8, {"bits": 4, "format": "q_k_m"}, FormatError),
        (Q8, {"dynamic": {"m": {"bits": 4}}}, UnsupportedError),
        ({"m.qweight": ("I32", (32, 68))}, {}, FormatError),
        ({"m.qweight": ("U8", (2, 32, 68))}, {}, FormatError),
    ],
)
def test_other_types_are_refused(parts: Any, about: Any, error: Any) -> None:
    with pytest.raises(AnamnesisError) as caught:
        resolved(parts, GGUF | about)
    assert type(caught.value) is error


def test_padded_inputs_are_said() -> None:
    notes = resolved(Q8, GGUF, hidden_size=60, intermediate_size=64).notes
    assert ["hidden_size 60" in note and "intermediate" not in note for note in notes] == [True]
