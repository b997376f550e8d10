"""Files of llama.cpp's first years, which have other tensors than its converter writes today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_shapes import config
from llama_folder import add_tokenizer
from safetensors.numpy import load_file, save_file
from towers import numbers, write

import anamnesis
from anamnesis.names.layers import multiplied_widths
from anamnesis.names.settings import Settings

gguf = pytest.importorskip("gguf")


def test_a_fused_chatglm_is_a_glm(tmp_path: Path) -> None:
    """Names and settings as `convert_glm_weights_to_hf.py` of transformers has them."""
    keys: dict[str, Any] = {
        "chatglm.attention.head_count": 4,
        "chatglm.attention.head_count_kv": 2,
        "chatglm.embedding_length": 32,
        "chatglm.context_length": 64,
        "chatglm.attention.layer_norm_rms_epsilon": 0.0078125,
        "chatglm.rope.dimension_count": 4,
        "chatglm.rope.freq_base": 5000000.0,
    }
    fused, bias = numbers(64, 32), numbers(64)
    tensors = {
        "token_embd.weight": numbers(40, 32),
        "blk.0.attn_qkv.weight": fused,
        "blk.0.attn_qkv.bias": bias,
        "blk.0.ffn_up.weight": numbers(48, 32),
        "blk.0.ffn_down.weight": numbers(32, 24),
    }
    source = write(tmp_path / "m.gguf", "chatglm", keys, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf", dtype="f32")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, rows in (("q", slice(0, 32)), ("k", slice(32, 48)), ("v", slice(48, 64))):
        at = f"model.layers.0.self_attn.{name}_proj."
        np.testing.assert_array_equal(found[f"{at}weight"], fused[rows])
        np.testing.assert_array_equal(found[f"{at}bias"], bias[rows])
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {"architectures": ["GlmForCausalLM"], "attention_bias": True, "head_dim": 8}
    expected |= {"rms_norm_eps": 0.0078125, "rope_theta": 5000000.0, "partial_rotary_factor": 0.5}
    assert written.items() >= (expected | {"max_position_embeddings": 64}).items()


def test_gates_of_jina_s_encoder_come_before_what_they_gate(tmp_path: Path) -> None:
    tensors = {
        f"blk.0.ffn_{name}.weight": numbers(24, 32) + i for i, name in ((1, "gate"), (2, "up"))
    }
    keys = {"jina-bert-v2.attention.layer_norm_epsilon": 1e-12, "tokenizer.ggml.model": "bert"}
    source = write(tmp_path / "m.gguf", "jina-bert-v2", keys, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf", dtype="f32")
    (found,) = load_file(tmp_path / "out" / "model.safetensors").values()
    np.testing.assert_array_equal(found, np.concatenate(list(tensors.values())))


def test_a_kormo_is_written_as_a_qwen2(tmp_path: Path) -> None:
    """Its norms have other names (gguf-py, tensor_mapping.py)."""
    tokenizers = pytest.importorskip("tokenizers")
    names = {"pre_attention_layernorm": "attn_norm", "pre_mlp_layernorm": "ffn_norm"}
    tensors = {f"model.layers.0.{name}.weight": numbers(32) + i for i, name in enumerate(names)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config("KORMoForCausalLM")))
    add_tokenizer(tmp_path, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    anamnesis.convert(tmp_path, tmp_path / "m.gguf", to="gguf", dtype="f32")
    reader = gguf.GGUFReader(str(tmp_path / "m.gguf"))
    assert reader.fields["general.architecture"].contents() == "qwen2"
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, array in tensors.items():
        np.testing.assert_array_equal(stored[f"blk.0.{names[name.split('.')[3]]}.weight"], array)


def test_openelm_s_widths_are_whole_multiples() -> None:
    """Those of the published 270M, as its configuration makes them (`make_divisible`)."""
    factors = [
        0.5,
        0.73,
        0.97,
        1.2,
        1.43,
        1.67,
        1.9,
        2.13,
        2.37,
        2.6,
        2.83,
        3.07,
        3.3,
        3.53,
        3.77,
        4.0,
    ]
    said = {"model_dim": 1280, "ffn_dim_divisor": 256, "ffn_multipliers": factors}
    widths = [768, 1024, 1280, 1536, 1792, 2048, 2560, 2816]
    widths += [3072, 3328, 3584, 3840, 4352, 4608, 4864, 5120]
    assert multiplied_widths(Settings(said), "") == widths
    assert multiplied_widths(Settings({**said, "ffn_multipliers": [0.28]}), "") == [512]


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        (
            "codeshell",
            {"attention.head_count_kv": 2},
            {"num_query_groups": 2, "group_query_attention": True},
        ),
        (
            "nomic-bert-moe",
            {"moe_every_n_layers": 2, "expert_count": 8, "expert_used_count": 2},
            {"moe_every_n_layers": 2, "num_experts": 8, "moe_top_k": 2, "mlp_fc1_bias": True},
        ),
        (
            "openelm",
            {"feed_forward_length": [768, 1024], "embedding_length": 1280},
            {"ffn_multipliers": [0.6, 0.8], "ffn_dim_divisor": 256, "model_dim": 1280},
        ),
        (
            "orion",
            {"attention.layer_norm_epsilon": 1e-5, "context_length": 64},
            {"rms_norm_eps": 1e-5, "max_sequence_length": 64},
        ),
        (
            "plm",
            {"attention.key_length": 24, "rope.dimension_count": 8},
            {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8},
        ),
        (
            "qwen",
            {
                "attention.layer_norm_epsilon": 1e-6,
                "embedding_length": 32,
                "attention.head_count": 4,
            },
            {"layer_norm_epsilon": 1e-6, "intermediate_size": 48, "kv_channels": 8},
        ),
    ],
)
def test_settings_have_the_names_of_the_model_s_own_code(
    architecture: str, keys: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    named = {f"{architecture}.{key}": value for key, value in keys.items()}
    tensors = {"blk.0.ffn_down.weight": numbers(32, 24)}
    source = write(tmp_path / "m.gguf", architecture, named, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf")
    assert json.loads((tmp_path / "out" / "config.json").read_text()).items() >= expected.items()
