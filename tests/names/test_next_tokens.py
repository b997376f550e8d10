"""Layers that only predict further tokens come along where llama.cpp has a place for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_shapes import config
from llama_folder import add_tokenizer
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.names.gguf_view import gguf_view
from anamnesis.readers.model import load_model

gguf = pytest.importorskip("gguf")

NEXT = {"eh_proj": (4, 8), "enorm": (4,), "hnorm": (4,), "shared_head.norm": (4,)}


def folder(path: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A model of one layer, and one after it; each of one norm."""
    path.mkdir()
    norms = [f"model.layers.{layer}.input_layernorm.weight" for layer in (0, 1)]
    tensors = {norm: np.full(4, 0.5, np.float32) for norm in norms}
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(4, np.float32)
    for number, (tensor, shape) in enumerate(NEXT.items()):
        tensors[f"model.layers.1.{tensor}.weight"] = np.full(shape, number, np.float32)
    save_file(tensors, path / "model.safetensors")
    said = config(name) | {"num_nextn_predict_layers": 1}
    (path / "config.json").write_text(json.dumps(said))
    return path, said


@pytest.mark.parametrize(
    "name", ["Glm4MoeForCausalLM", "DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"]
)
def test_they_go_both_ways(name: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    source, _ = folder(tmp_path / "hf", name)
    add_tokenizer(source, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    (source / "tokenizer_config.json").write_text("{}")
    anamnesis.convert(source, tmp_path / "m.gguf", to="gguf", dtype="f32")
    reader = gguf.GGUFReader(str(tmp_path / "m.gguf"))
    names = {tensor.name for tensor in reader.tensors}
    assert "blk.1.nextn.eh_proj.weight" in names
    assert "blk.1.nextn.shared_head_norm.weight" in names
    kind = reader.fields["general.architecture"].contents()
    assert reader.fields[f"{kind}.block_count"].contents() == 2
    assert reader.fields[f"{kind}.nextn_predict_layers"].contents() == 1
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "back", to="hf", dtype="f32")
    before, after = (load_file(p / "model.safetensors") for p in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[tensor], after[tensor]) for tensor in before)
    found = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (found["num_hidden_layers"], found["num_nextn_predict_layers"]) == (1, 1)


def test_others_leave_them_out_with_a_note(tmp_path: Path) -> None:
    source, said = folder(tmp_path / "hf", "DeepseekV3ForCausalLM")
    view = gguf_view(load_model(str(source)), said)
    names = [tensor.name for tensor in view.model.tensors]
    assert names == ["blk.0.attn_norm.weight", "blk.0.attn_q.bias"]
    note = "model.layers.1.eh_proj.weight and 4 more are left out: part of a layer that only"
    assert any(note in text for text in view.model.notes)
