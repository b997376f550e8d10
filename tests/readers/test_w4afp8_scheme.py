"""W4AFP8: what is claimed of an expert, and what does not fit (values: tests/conformance)."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import ledger_of, resolved

from anamnesis.errors import AnamnesisError, FormatError
from anamnesis.readers.schemes import resolve

CONFIG = {"quantization_config": {"quant_method": "w4afp8"}}
EXPERT = {
    "e.0.up_proj.weight": ("I8", (96, 128)),
    "e.0.up_proj.weight_scale_inv": ("F32", (96, 2)),
    "e.0.up_proj.input_scale": ("BF16", (1,)),
}
LINEAR = {"q_proj.weight": ("F8_E4M3", (256, 384)), "q_proj.weight_scale_inv": ("F32", (2, 3))}


def test_experts_beside_linear_layers_of_fp8() -> None:
    book = resolved(EXPERT | LINEAR, CONFIG)
    found = {t.name: (t.shape, t.scheme, t.encoding) for t in book.tensors.values()}
    assert found == {
        "e.0.up_proj.weight": ((96, 256), "w4afp8", "int4-rows"),
        "q_proj.weight": ((256, 384), "fp8-block", "fp8-e4m3"),
    }
    assert [d.stored.name for d in book.dropped] == ["e.0.up_proj.input_scale"]
    assert not any("another method" in note for note in book.notes)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weight", ("I8", (96, 128, 1)), "a matrix"),
        ("weight", ("I8", (0, 128)), "a matrix"),
        ("weight", ("I8", (96, 96)), r"\[out, in / 128\]"),
        ("weight_scale_inv", ("F32", (96, 1)), r"\[out, in / 128\]"),
        ("weight_scale_inv", ("F32", (2, 96)), r"\[out, in / 128\]"),
        ("weight_scale_inv", ("I32", (96, 2)), "BF16, F16, F32"),
        ("weight_scale_inv", None, "no 'e.0.up_proj.weight_scale_inv' beside it"),
    ],
)
def test_what_does_not_fit(name: str, change: Any, message: str) -> None:
    parts = {**EXPERT, **LINEAR, f"e.0.up_proj.{name}": change}
    with pytest.raises(FormatError, match=message):
        resolve(ledger_of({n: entry for n, entry in parts.items() if entry}, CONFIG))


def test_nothing_but_the_configuration_tells_it() -> None:
    for config in ({}, {"quantization_config": {"quant_method": "fp8"}}):
        with pytest.raises(AnamnesisError):
            resolve(ledger_of(EXPERT, config))
