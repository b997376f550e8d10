"""Layers of models with `Conv1D`, quantised as `Linear`: told apart whatever their tool."""

from __future__ import annotations

import pytest
from small_models import Parts, resolved

GPT2 = {"model_type": "gpt2", "n_embd": 64}


def int8(*shapes: tuple[str, int, int]) -> Parts:
    parts: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, rows, columns in shapes:
        parts[f"h.0.{name}.weight"] = ("I8", (rows, columns))
        parts[f"h.0.{name}.SCB"] = ("F32", (rows,))
    return parts


LINEAR = int8(("attn.c_attn", 192, 64), ("attn.c_proj", 64, 64))
CONV1D = int8(("attn.c_attn", 64, 192), ("attn.c_proj", 64, 64))
GPTQ: Parts = {
    "h.0.mlp.c_fc.qweight": ("I32", (8, 256)),
    "h.0.mlp.c_fc.qzeros": ("I32", (2, 32)),
    "h.0.mlp.c_fc.scales": ("F16", (2, 256)),
}


@pytest.mark.parametrize(
    ("parts", "sizes", "noted"),
    [
        (LINEAR, GPT2, True),
        (CONV1D, GPT2, False),
        (GPTQ, GPT2, True),
        (LINEAR, {"model_type": "decision_transformer", "hidden_size": 64}, True),
        (LINEAR, {"model_type": "qwen", "hidden_size": 64}, False),
        ({"h.0.attn.c_attn.weight": ("BF16", (64, 192))}, GPT2, False),
    ],
    ids=["bitsandbytes", "as-the-class", "gptq", "decision-transformer", "another-model", "dense"],
)
def test_transposed_layers_are_noted(parts: Parts, sizes: dict[str, object], noted: bool) -> None:
    ledger = resolved(parts, configs={"config.json": sizes})
    assert any("(Conv1D)" in note for note in ledger.notes) == noted
    assert ledger.transposed == (set(ledger.tensors) if noted else set())
    assert ledger.conv1d == (set(ledger.tensors) if sizes["model_type"] != "qwen" else set())
