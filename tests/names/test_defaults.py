"""What a file lacks is said in `config.json` where a class would take something else for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from towers import numbers, write

import anamnesis
from anamnesis.limits import Limits
from anamnesis.names.folder import describe
from anamnesis.names.open import open_named
from anamnesis.names.pieces import of_model
from anamnesis.readers.schemes.base import Options

pytest.importorskip("gguf")

SIZES = {"embedding_length": 64, "attention.head_count": 4}


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("qwen3", {"head_dim": 16, "num_key_value_heads": 4}),
        ("gemma3", {"rope_theta": 10000.0, "head_dim": 16}),
        ("smollm3", {"rope_theta": 10000.0}),
        ("mistral3", {"sliding_window": None}),
        (
            "glm-dsa",
            {"norm_topk_prob": False, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0},
        ),
        ("granitehybrid", {"position_embedding_type": "rope"}),
    ],
)
def test_a_file_that_lacks_a_key_has_llama_cpp_s_value(
    architecture: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    keys = {f"{architecture}.{key}": value for key, value in SIZES.items()}
    keys["tokenizer.ggml.tokens"] = ["a"]
    if architecture == "mistral3":
        keys["mistral3.context_length"] = 8
    source = write(tmp_path / "m.gguf", architecture, keys, {"blk.0.attn_norm.weight": numbers(64)})
    model = open_named(str(source), Options(names="hf"))
    found = json.loads(describe(model, "bf16", Limits())[0]["config.json"])
    assert {key: found.get(key, "not said") for key in expected} == expected


def test_what_the_file_says_stands(tmp_path: Path) -> None:
    said = SIZES | {"attention.head_count_kv": 2, "attention.key_length": 32}
    keys = {f"qwen3.{key}": value for key, value in said.items()}
    source = write(tmp_path / "m.gguf", "qwen3", keys, {"blk.0.attn_norm.weight": numbers(64)})
    model = open_named(str(source), Options(names="hf"))
    found = json.loads(describe(model, "bf16", Limits())[0]["config.json"])
    assert (found["num_key_value_heads"], found["head_dim"]) == (2, 32)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_special_tokens_that_a_file_does_not_say(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    keys: dict[str, Any] = {f"llama.{key}": value for key, value in SIZES.items()}
    keys |= {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"]}
    keys |= {"tokenizer.ggml.scores": [0.0] * 4, "tokenizer.ggml.token_type": [2, 3, 3, 1]}
    source = write(tmp_path / "m.gguf", "llama", keys, {"output_norm.weight": numbers(64)})
    model = open_named(str(source), Options(names="hf"))
    files = describe(model, "bf16", Limits())[0]
    found, settings = (json.loads(files[f"{name}.json"]) for name in ("config", "tokenizer_config"))
    pieces = kind == "llama"
    assert found["bos_token_id"] == (1 if pieces else None)
    assert found["eos_token_id"] == (2 if pieces else None)
    assert settings.get("bos_token") == ("<s>" if pieces else None)
    if pieces:
        made = json.loads(files["tokenizer.json"])["post_processor"]
        assert made["single"][0]["SpecialToken"]["id"] == "<s>"


def test_the_trainer_s_ids_are_said_where_llama_cpp_takes_others() -> None:
    def entry(number: int, data: bytes) -> bytes:
        return bytes((number << 3 | 2, len(data))) + data

    pieces = b"".join(entry(1, entry(1, text)) for text in (b"<pad>", b"</s>", b"<s>", b"<unk>"))
    trained = b"".join(
        bytes((n << 3 & 127 | 128, n >> 4, i)) for n, i in ((40, 3), (41, 2), (42, 1))
    )
    tokens, _ = of_model("t.model", pieces + entry(2, trained))
    values = tokens.values("llama", "default")
    found = {key: value.value for key, value in values.items() if key.endswith("_token_id")}
    names = ("bos", "eos", "unknown")
    assert found == {
        f"tokenizer.ggml.{n}_token_id": i for n, i in zip(names, (2, 1, 3), strict=True)
    }
    usual, _ = of_model("t.model", pieces)
    assert not usual.ids


def test_experts_one_by_one_are_those_of_a_stack(tmp_path: Path) -> None:
    """Files of Mixtral's first months have a tensor an expert."""
    import numpy as np
    from safetensors.numpy import load_file

    stacks = {name: numbers(2, 8, 8) + i for i, name in enumerate(("gate", "down", "up"))}
    keys = {"llama.embedding_length": 8, "llama.attention.head_count": 2}
    keys |= {"llama.block_count": 1, "llama.expert_count": 2, "llama.expert_used_count": 1}
    rest = {"blk.0.ffn_gate_inp.weight": numbers(2, 8), "blk.0.attn_q.weight": numbers(8, 8)}
    old = {f"blk.0.ffn_{n}.{x}.weight": s[x] for n, s in stacks.items() for x in range(2)}
    new = {f"blk.0.ffn_{n}_exps.weight": s for n, s in stacks.items()}
    found = []
    for name, tensors in (("old", old), ("new", new)):
        source = write(tmp_path / f"{name}.gguf", "llama", keys, rest | tensors)
        anamnesis.convert(source, tmp_path / name, to="hf")
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["architectures"] == ["MixtralForCausalLM"]
        found.append(load_file(tmp_path / name / "model.safetensors"))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 8
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
