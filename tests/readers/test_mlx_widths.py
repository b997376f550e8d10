"""The widths of MLX layers, of which the tensors tell only the product with the group size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import resolved

from anamnesis.readers.model import Model, load_model


def mlx(folder: Path, layer: str, config: Any, jang: Any = None) -> Model:
    """A layer of 16 words and two groups a row: 2 bits by 128, 4 by 64 or 8 by 32."""
    rng = np.random.default_rng(3)
    grid = np.full((24, 2), 0.5, np.float16)
    tensors = {
        f"{layer}.weight": rng.integers(0, 2**32, (24, 16), np.uint32),
        f"{layer}.scales": grid,
        f"{layer}.biases": grid,
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if jang is not None:
        (folder / "jang_config.json").write_text(json.dumps({"quantization": jang}))
    return load_model(str(folder))


def by(bits: int, size: int, **more: Any) -> dict[str, Any]:
    return {"quantization": {"bits": bits, "group_size": size}, **more}


@pytest.mark.parametrize(
    ("layer", "config", "jang", "bits", "noted"),
    [
        ("gate_proj", by(8, 32), None, 8, False),
        ("gate_proj", by(8, 32, hidden_size=64), None, 8, False),
        ("gate_proj", by(8, 32, hidden_size=256), None, 2, True),
        ("m.q_proj", by(8, 32, text_config={"hidden_size": 128}), None, 4, True),
        ("down_proj", by(8, 32, hidden_size=256), None, 8, False),
        ("gate_proj", by(2, 128, hidden_size=128), None, 2, True),  # a multiple may be meant
        ("gate_proj", by(8, 32, hidden_size=100), None, 8, True),
        ("gate_proj", by(8, 32, hidden_size=64, vision={"hidden_size": 256}), None, 8, False),
        ("down_proj", by(8, 32), {"block_size": 128, "bit_widths_used": [2, 6]}, 2, True),
        ("down_proj", by(8, 32), {"block_size": 128, "bit_widths_used": [4, 6]}, 8, False),
        ("gate_proj", by(8, 32, hidden_size=256), {"block_size": 128}, 2, True),
        ("down_proj", {}, {"block_size": 64}, 4, False),
        ("down_proj", by(8, 32, intermediate_size=256), None, 8, True),
        ("down_proj", by(8, 32, intermediate_size=64), None, 8, False),
        ("down_proj", by(8, 32, hidden_size=64, intermediate_size=256), None, 8, False),
        ("down_proj", by(8, 32, intermediate_size=100), None, 8, True),
        ("o_proj", by(8, 32, num_attention_heads=4, head_dim=64), None, 8, True),
        ("o_proj", by(8, 32, num_attention_heads=4, head_dim=16), None, 8, False),
        # The names of other architectures, and what they call the sizes.
        ("h.0.attn.c_attn", by(8, 32, n_embd=256), None, 2, True),
        ("layer.0.attention.self.query", by(8, 32, hidden_size=256), None, 2, True),
        ("layer.0.output.dense", by(8, 32, hidden_size=256), None, 8, True),
        ("layer.0.output.dense", by(8, 32, intermediate_size=256), None, 8, True),
        ("layer.0.intermediate.dense", by(8, 32, hidden_size=256), None, 2, True),
        ("layer.0.attention.output.dense", by(8, 32, n_heads=4, head_dim=32), None, 8, True),
        ("h.0.mlp.c_proj", by(8, 32, n_inner=256), None, 8, True),
        ("block.0.layer.0.SelfAttention.o", by(8, 32, d_kv=64, num_heads=4), None, 8, True),
        ("block.0.layer.1.DenseReluDense.wo", by(8, 32, d_ff=256, d_model=32), None, 8, True),
        ("layer.0.output.dense", by(8, 32, hidden_size=256, other_dim=64), None, 8, False),
        ("h.0.self_attention.query_key_value", by(8, 32, hidden_size=128), None, 4, True),
        ("block.0.layer.0.SelfAttention.q", by(8, 32, d_model=256), None, 2, True),
        ("block.0.layer.1.DenseReluDense.wi_0", by(8, 32, d_model=256), None, 2, True),
        ("blocks.0.attn.Wqkv", by(8, 32, d_model=256), None, 2, True),
        ("layers.0.fc1", by(8, 32, d_model=64, encoder_ffn_dim=256), None, 8, False),
        ("encoder.layers.0.fc2", by(8, 32, d_model=512, encoder_ffn_dim=256), None, 8, True),
    ],
)
def test_mlx_layers_have_the_inputs_that_the_model_says(
    tmp_path: Path, layer: str, config: Any, jang: Any, bits: int, noted: bool
) -> None:
    model = mlx(tmp_path, layer, config, jang)
    (tensor,) = model.tensors
    assert tensor.params["bits"] == bits
    assert tensor.shape == (24, 512 // bits)
    assert any(layer in note for note in model.notes) == noted


GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64}
LLAMA = {"intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64}


@pytest.mark.parametrize(
    ("layer", "before", "bits", "noted"),
    [
        ("down_proj", {"gate_proj": 256, "up_proj": 256}, 2, True),
        ("down_proj", {"gate_proj": 64, "up_proj": 64}, 8, False),  # whatever config.json says
        ("down_proj", {"gate_proj": 128, "up_proj": 128}, 8, True),
        ("w2", {"w1": 256, "w3": 256}, 2, True),
        ("o_proj", {"q_proj": 256, "k_proj": 256, "v_proj": 256}, 2, True),
        ("o_proj", {"q_proj": 256, "k_proj": 64, "v_proj": 64}, 8, True),
        # Moshi's: a gate and what it multiplies in one, and a size that is that of both.
        ("fc2", {"fc1": 256}, 8, True),
    ],
)
def test_mlx_layers_read_what_the_layers_before_give(
    layer: str, before: dict[str, int], bits: int, noted: bool
) -> None:
    parts: dict[str, Any] = {}
    for name, rows in {layer: 24, **before}.items():
        words = 16 if name == layer else 32
        parts[f"m.{name}.weight"] = ("U32", (rows, words))
        parts[f"m.{name}.scales"] = parts[f"m.{name}.biases"] = ("F16", (rows, words // 8))
    found = resolved(parts, configs={"config.json": by(8, 32, **LLAMA)})
    assert found.tensors[f"m.{layer}.weight"].params["bits"] == bits
    assert bool(found.notes) == noted


@pytest.mark.parametrize(
    ("layer", "before", "config", "bits"),
    [
        ("o_proj", {"q_proj": 256, "k_proj": 64, "v_proj": 64}, GROUPED, 2),
        ("o_proj", {"q_proj": 256, "k_proj": 128, "v_proj": 128}, GROUPED, 8),  # others share
        ("o_proj", {"q_proj": 512, "k_proj": 64, "v_proj": 64}, GROUPED, 8),  # gates beside queries
        # The layers that read the stream have other sizes than are stated, or the stated ones.
        ("fc2", {"fc1": 256}, {"intermediate_size": 256, "hidden_size": 512}, 2),
        ("fc2", {"fc1": 256}, {"intermediate_size": 256, "hidden_size": 128}, 8),
        ("DenseReluDense.wo", {"DenseReluDense.wi": 256}, {"d_ff": 256, "d_model": 512}, 2),
    ],
)
def test_mlx_layers_that_read_a_part_are_settled_by_a_second_sign(
    layer: str, before: dict[str, int], config: dict[str, int], bits: int
) -> None:
    """32 words are 128 inputs of 8 bits in groups of 32, or 512 of 2 bits in groups of 128."""
    parts: dict[str, Any] = {}
    for name, rows in {layer: 24, **before}.items():
        words = 16 if name == layer else 32
        parts[f"m.{name}.weight"] = ("U32", (rows, words))
        parts[f"m.{name}.scales"] = parts[f"m.{name}.biases"] = ("F16", (rows, words // 8))
    found = resolved(parts, configs={"config.json": by(8, 32, **config)})
    assert found.tensors[f"m.{layer}.weight"].params["bits"] == bits
    assert any(layer in note for note in found.notes)


@pytest.mark.parametrize(
    ("level", "more", "bits"),
    [
        ("8", {"mflux_version": "0.9.0"}, 8),
        ("4", {"quantization_mode": "affine", "quantization_group_size": "128"}, 4),
        ("8", {"quantization_mode": "affine", "quantization_group_size": "None"}, 8),
    ],
)
def test_mflux_says_the_bits_in_the_metadata_of_its_files(
    level: str, more: dict[str, str], bits: int
) -> None:
    """32 words of two groups are 8 bits in groups of 64, or 4 in groups of 128."""
    parts: dict[str, Any] = {"m.to_q.weight": ("U32", (24, 32))}
    parts["m.to_q.scales"] = parts["m.to_q.biases"] = ("BF16", (24, 2))
    found = resolved(parts, metadata={"quantization_level": level, **more})
    assert found.tensors["m.to_q.weight"].params["bits"] == bits
    assert not found.notes


def test_mflux_names_the_mode_of_floats_in_metadata() -> None:
    parts: dict[str, Any] = {"m.to_q.weight": ("U32", (24, 16)), "m.to_q.scales": ("U8", (24, 4))}
    about = {"quantization_level": "4", "quantization_mode": "mxfp4"}
    found = resolved(parts, metadata=about)
    assert found.tensors["m.to_q.weight"].scheme == "mlx-mxfp4"
    assert not found.notes
    assert resolved(parts, metadata={**about, "quantization_mode": "nvfp4"}).notes
