"""What a file lacks is said in `config.json` where a class would take something else for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from towers import numbers, write

from anamnesis.limits import Limits
from anamnesis.names.folder import describe
from anamnesis.names.open import open_named
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
