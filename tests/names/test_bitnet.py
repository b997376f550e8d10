"""BitNet's GGUF files, llama.cpp's and bitnet.cpp's, as the class of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from towers import numbers, write

import anamnesis
from anamnesis.names.families import families
from anamnesis.names.gguf_config import WRITTEN

pytest.importorskip("gguf")

# By https://github.com/microsoft/BitNet (utils/convert-hf-to-gguf-bitnet.py, `map_tensor_name`).
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
    "blk.0.attn_sub_norm.weight": "model.layers.0.self_attn.attn_sub_norm.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    "blk.0.ffn_sub_norm.weight": "model.layers.0.mlp.ffn_sub_norm.weight",
    "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
}


@pytest.mark.parametrize(
    ("architecture", "function"),
    [("bitnet-b1.58", "relu2"), ("bitnet-25", "relu2"), ("bitnet", "silu")],
)
def test_rows_stay_where_they_are(architecture: str, function: str, tmp_path: Path) -> None:
    """Queries and keys too: its rotary embeddings turn halves of a head (NEOX), as there."""
    keys: dict[str, Any] = {
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        f"{architecture}.embedding_length": 32,
    }
    tensors = {name: numbers(32, *(() if "norm" in name else (32,))) for name in NAMES}
    tensors["blk.0.attn_k.weight"] = numbers(16, 32)
    source = write(tmp_path / "m.gguf", architecture, keys, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf", dtype="f32")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == set(NAMES.values())
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[NAMES[name]], array, name)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BitNetForCausalLM"]
    assert (config["model_type"], config["hidden_act"]) == ("bitnet", function)
    assert config["tie_word_embeddings"]
    notes = anamnesis.open_model(source, names="hf").model.notes
    assert any("rounds what goes into it to 8 bits" in note for note in notes)


def test_none_is_written() -> None:
    """The converter's file has other weights, and llama.cpp's graph another function than 2B-4T."""
    read = {name for f in families() if f.name.startswith("bitnet") for name in f.architectures}
    assert len(read) == 2
    assert not read & set(WRITTEN)
