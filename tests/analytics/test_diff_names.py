"""Names: one spelling for GGUF and Hugging Face, places in a network, and no guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.analytics.diff.names import Place, place, spelling

Entry = tuple[str, tuple[int, ...], bytes]
Write = Callable[[Path, Mapping[str, Entry]], Path]
LAYER = "model.layers.12"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.12.attn_q.weight", f"{LAYER}.self_attn.q_proj.weight"),
        ("blk.12.attn_k.bias", f"{LAYER}.self_attn.k_proj.bias"),
        ("blk.12.attn_output.weight", f"{LAYER}.self_attn.o_proj.weight"),
        ("blk.12.attn_norm.weight", f"{LAYER}.input_layernorm.weight"),
        ("blk.12.ffn_norm.weight", f"{LAYER}.post_attention_layernorm.weight"),
        ("blk.12.ffn_down.weight", f"{LAYER}.mlp.down_proj.weight"),
        ("blk.12.ffn_gate_inp.weight", f"{LAYER}.mlp.gate.weight"),
        ("model.layers.12.block_sparse_moe.gate.weight", f"{LAYER}.mlp.gate.weight"),
        (
            "model.layers.12.block_sparse_moe.experts.3.w2.weight",
            f"{LAYER}.mlp.experts.3.down_proj.weight",
        ),
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("layers.12.mlp.up_proj.weight", f"{LAYER}.mlp.up_proj.weight"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("module.model.norm.weight", "model.norm.weight"),
        ("blk.12.unheard_of.weight", "blk.12.unheard_of.weight"),
        ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
        ("h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        ("", ""),
    ],
)
def test_one_spelling(name: str, expected: str) -> None:
    assert spelling(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.12.attn_q.weight", Place(12, "self_attn.q_proj")),
        ("model.layers.0.mlp.experts.127.up_proj.weight", Place(0, "mlp.experts.up_proj")),
        ("blk.3.ffn_up_exps.weight", Place(3, "mlp.experts.up_proj")),
        ("transformer.h.7.attn.c_attn.bias", Place(7, "transformer: attn.c_attn.bias")),
        (
            "vision_tower.encoder.layers.2.mlp.fc1.weight",
            Place(2, "vision_tower.encoder: mlp.fc1"),
        ),
        ("lm_head.weight", Place(None, "lm_head")),
        ("token_embd.weight", Place(None, "model.embed_tokens")),
        ("layers.99999999999999999999.x", Place(None, "model.layers.99999999999999999999.x")),
    ],
)
def test_places(name: str, expected: Place) -> None:
    assert place(name) == expected


def test_two_tensors_of_one_spelling_are_left_alone(
    tmp_path: Path, write_safetensors: Write
) -> None:
    entry: Entry = ("F32", (4,), np.ones(4, "<f4").tobytes())
    a = write_safetensors(
        tmp_path / "a.safetensors",
        {"norm.weight": entry, "module.norm.weight": entry, "output.weight": entry},
    )
    b = write_safetensors(
        tmp_path / "b.safetensors", {"output_norm.weight": entry, "lm_head.weight": entry}
    )
    found = anamnesis.diff(a, b)
    assert [(row.tensor, row.tensor_b) for row in found.compared] == [
        ("output.weight", "lm_head.weight")
    ]
    assert {row.tensor for row in found.others} == {
        "norm.weight",
        "module.norm.weight",
        "output_norm.weight",
    }


def test_an_equal_name_wins_over_a_spelling(tmp_path: Path, write_safetensors: Write) -> None:
    entry: Entry = ("F32", (4,), np.ones(4, "<f4").tobytes())
    a = write_safetensors(tmp_path / "a.safetensors", {"output.weight": entry})
    b = write_safetensors(
        tmp_path / "b.safetensors", {"lm_head.weight": entry, "output.weight": entry}
    )
    found = anamnesis.diff(a, b)
    assert found.compared[0].tensor_b == "output.weight"
    assert found.others[0].tensor == "lm_head.weight"
