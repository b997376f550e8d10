"""A folder of half a model is written with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_shapes import config
from safetensors.numpy import save_file

from anamnesis.names.gguf_view import gguf_view
from anamnesis.readers.model import load_model


@pytest.mark.parametrize(
    ("layers", "without", "remark"),
    [
        (2, "", ""),
        (3, "", "llama.block_count is 3; there are 2 layers, up to blk.1"),
        (1, "", "llama.block_count is 1; there are 2 layers, up to blk.1"),
        (2, "1.mlp", "blk.1.ffn_up.weight missing, which other layers have"),
    ],
)
def test_what_lacks_is_a_note(layers: int, without: str, remark: str, tmp_path: Path) -> None:
    names = [f"{i}.{name}.weight" for i in (0, 1) for name in ("input_layernorm", "mlp.up_proj")]
    tensors = {
        f"model.layers.{name}": np.ones((24, 32) if "mlp" in name else 32, np.float32)
        for name in names
        if not (without and name.startswith(without))
    }
    save_file(tensors, tmp_path / "model.safetensors")
    said = config("LlamaForCausalLM") | dict.fromkeys(("num_hidden_layers", "n_layers"), layers)
    notes = "\n".join(gguf_view(load_model(str(tmp_path)), said).model.notes)
    assert notes.startswith(remark)
    assert bool(notes) is bool(remark)


@pytest.mark.parametrize(
    ("name", "noted"), [("LlamaForCausalLM", True), ("HunYuanMoEV1ForCausalLM", False)]
)
def test_scaling_that_llama_cpp_does_not_know_is_a_note(
    name: str, noted: bool, tmp_path: Path
) -> None:
    """Hunyuan's is one of the base alone, which its GGUF says."""
    tensors = {"model.layers.0.input_layernorm.weight": np.ones(32, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    scaling = {"rope_type": "dynamic", "factor": 4.0, "alpha": 1000.0}
    said = config(name) | {"rope_scaling": scaling}
    notes = "\n".join(gguf_view(load_model(str(tmp_path)), said).model.notes)
    assert ("no rope scaling 'dynamic'" in notes) is noted
