"""HunyuanVL's rotary embeddings: the base as it is, and what llama.cpp scales it by."""

from __future__ import annotations

from typing import Any

import pytest
from gguf_shapes import config

from anamnesis.names.config_changes import scaled_base
from anamnesis.names.gguf_config import architecture_values, keys_of

NAME = "HunYuanVLForConditionalGeneration"


def rotary(said: dict[str, Any]) -> dict[str, Any]:
    """The rotary key/values of a configuration."""
    settings = {**config(NAME), "max_position_embeddings": 640, "rope_scaling": said}
    settings |= {"rope_theta": 10000.0, "head_dim": 8}
    found = architecture_values(keys_of(NAME, ""), "hunyuan_vl", settings, "config.json")
    start = "hunyuan_vl.rope."
    return {k.removeprefix(start): v.value for k, v in found.items() if k.startswith(start)}


@pytest.mark.parametrize(
    "said",
    [
        {"type": "xdrope", "alpha": 1000, "xdrope_section": [1, 1, 1, 1]},
        {"rope_type": "dynamic", "alpha": 1000.0, "mrope_section": [1, 1, 1, 1]},
    ],
    ids=["published", "transformers"],
)
def test_four_positions_keep_the_base_and_say_alpha(said: dict[str, Any]) -> None:
    assert rotary(said) == {
        "dimension_sections": [1, 1, 1, 1],
        "freq_base": 10000.0,
        "scaling.alpha": 1000.0,
        "scaling.factor": 1.0,
        "scaling.original_context_length": 640,
        "scaling.type": "none",
    }


def test_one_position_has_the_base_alone() -> None:
    assert rotary({"rope_type": "default"}) == {"freq_base": 10000.0}


def test_a_folder_has_the_base_that_alpha_makes() -> None:
    settings: dict[str, Any] = {"rope_theta": 10000.0, "head_dim": 8}
    model: Any = None
    scaled_base(settings, {"hunyuan_vl.rope.scaling.alpha": 1000.0}, "hunyuan_vl", model)
    assert settings["rope_theta"] == 10000.0 * 1000.0 ** (8 / 6)
