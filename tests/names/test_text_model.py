"""Multimodal models to GGUF: the text model inside is of the class that its block says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_shapes import config
from safetensors.numpy import save_file

from anamnesis.errors import UnsupportedError
from anamnesis.names.gguf_view import GgufView, gguf_view
from anamnesis.readers.model import load_model

LLAVA, INTERN = "LlavaForConditionalGeneration", "InternVLChatModel"
TENSORS = {
    "model.embed_tokens.weight": (304, 32),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.q_proj.bias": (32,),
    "model.norm.weight": (32,),
    "lm_head.weight": (304, 32),
}
OTHERS = {"vision_tower.a.weight": (4, 4), "multi_modal_projector.linear_1.weight": (4, 4)}


def view(folder: Path, settings: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> GgufView:
    """The GGUF's view of a folder with tensors of these shapes, each of its own numbers."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    values = {name: rng.random(shape, np.float32) for name, shape in tensors.items()}
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    return gguf_view(load_model(str(folder)), settings)


def alone(name: str) -> dict[str, Any]:
    """A class's configuration, without its name."""
    return {key: value for key, value in config(name).items() if key != "architectures"}


def under(prefix: str) -> dict[str, tuple[int, ...]]:
    """The text model's tensors inside of a whole, and a tower's."""
    return {f"{prefix}{name}": shape for name, shape in TENSORS.items()} | OTHERS


QWEN2, OLMO = alone("Qwen2ForCausalLM"), alone("OlmoForCausalLM")


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        ({"architectures": [LLAVA], "text_config": {**QWEN2, "model_type": "qwen2"}}, "qwen2"),
        ({"architectures": [LLAVA], "text_config": {**QWEN2, "model_type": "mistral"}}, "llama"),
        (
            {
                "architectures": ["JanusForConditionalGeneration"],
                "text_config": {**QWEN2, "model_type": "llama"},
            },
            "llama",
        ),
        (
            {
                "architectures": [LLAVA],
                "text_config": {**OLMO, "model_type": "x", "architectures": ["OlmoForCausalLM"]},
            },
            "olmo",
        ),
        (
            {
                "architectures": [INTERN],
                "llm_config": {**QWEN2, "architectures": ["Qwen2ForCausalLM"]},
            },
            "qwen2",
        ),
        (
            {
                "architectures": ["Qwen2VLForConditionalGeneration"],
                "text_config": {**QWEN2, "architectures": None},
            },
            "qwen2vl",
        ),
    ],
)
def test_the_class_is_that_of_the_text_model(
    whole: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    found = view(tmp_path / "whole", whole, under("language_model."))
    assert found.values["general.architecture"].value == expected
    assert {t.name for t in found.model.tensors} >= {"token_embd.weight", "output.weight"}
    assert {d.stored.name for d in found.model.dropped} == OTHERS.keys()


def test_tensors_and_key_values_are_those_of_the_text_model_alone(tmp_path: Path) -> None:
    """A Llama's rows would be moved; a Qwen's are not."""
    inner = {**QWEN2, "architectures": ["Qwen2ForCausalLM"]}
    whole = view(
        tmp_path / "whole",
        {"architectures": [LLAVA], "text_config": {**QWEN2, "model_type": "qwen2"}},
        under("language_model."),
    )
    own = view(tmp_path / "own", inner, TENSORS)
    assert whole.values == own.values
    assert [(t.name, t.shape, t.encoding) for t in whole.model.tensors] == [
        (t.name, t.shape, t.encoding) for t in own.model.tensors
    ]


@pytest.mark.parametrize("kind", ["qwen99", None])
def test_a_text_model_of_an_unknown_class_is_refused(kind: str | None, tmp_path: Path) -> None:
    whole = {"architectures": [LLAVA], "text_config": {**QWEN2, "model_type": kind}}
    with pytest.raises(UnsupportedError, match=f"{kind}.*is not in the table of names"):
        view(tmp_path / "whole", whole, under("language_model."))


def test_settings_that_stand_beside_a_tower_s_are_of_another_class_s_text_model(
    tmp_path: Path,
) -> None:
    """dots.ocr's, which has no block of its own."""
    whole = {**QWEN2, "architectures": ["DotsOCRForCausalLM"], "vision_config": {"hidden_size": 4}}
    own = view(tmp_path / "own", {**QWEN2, "architectures": ["Qwen2ForCausalLM"]}, TENSORS)
    tower = {"vision_tower.blocks.0.norm1.weight": next(iter(TENSORS.values()))}
    found = view(tmp_path / "whole", whole, TENSORS | tower)
    assert found.values == own.values
    assert {d.stored.name for d in found.model.dropped} == tower.keys()
