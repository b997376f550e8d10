"""A recovered model folder loads in transformers as it is, with the weights that were meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import anamnesis

pytestmark = pytest.mark.oracle


@pytest.fixture
def fp8_folder(tmp_path: Path) -> Path:
    """A tiny Llama, saved by transformers, its projections quantised to FP8 in 128 x 128 blocks."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=192,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        tie_word_embeddings=False,
    )
    folder = tmp_path / "tiny-fp8"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    stored = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name] = value
            continue
        rows, columns = -(-value.shape[0] // 128), -(-value.shape[1] // 128)
        padded = torch.zeros(rows * 128, columns * 128)
        padded[: value.shape[0], : value.shape[1]] = value.float()
        scale = padded.view(rows, 128, columns, 128).abs().amax((1, 3)) / 448
        wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        codes = (padded / wide)[: value.shape[0], : value.shape[1]].to(torch.float8_e4m3fn)
        stored[name] = codes.contiguous()
        stored[f"{name}_scale_inv"] = scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    text = json.loads(path.read_text())
    text["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    path.write_text(json.dumps(text))
    return folder


@pytest.mark.parametrize("shard_size", ["5GB", "300KB"])
def test_transformers_loads_the_output(fp8_folder: Path, tmp_path: Path, shard_size: str) -> None:
    out = tmp_path / "tiny-bf16"
    anamnesis.remember(fp8_folder, out, max_shard_size=shard_size)
    model, report = AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    ours = anamnesis.open_model(out)
    for name, value in model.state_dict().items():
        bits = value.contiguous().view(torch.uint16).numpy()
        assert bits.tobytes() == ours[name].to_numpy().tobytes(), name
    with torch.no_grad():
        logits = model(torch.arange(8)[None]).logits
    assert torch.isfinite(logits).all()
