"""A vision tower beside a text model: it comes along, or a note says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from towers import model, numbers

import anamnesis
from anamnesis.names.tower_rows import READ
from anamnesis.names.vision_config import CLASSES, with_tower

pytest.importorskip("gguf")


def made(source: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The configuration, the tensors and the remarks of the folder of a model."""
    out = source.parent / "out"
    done = anamnesis.convert(source, out, to="hf")
    config = json.loads((out / "config.json").read_text())
    return config, load_file(out / "model.safetensors"), "\n".join(done.notes)


def test_every_tower_has_a_class() -> None:
    assert sorted(CLASSES) == sorted(
        {name for tower in READ for name in tower.classes if name not in tower.others}
    )


def test_a_tower_comes_along(tmp_path: Path) -> None:
    norm = numbers(8)
    source = model(tmp_path, "qwen2.5vl_merger", {"v.post_ln.weight": norm}, n_wa_pattern=2)
    config, tensors, notes = made(source)
    assert np.array_equal(tensors["visual.merger.ln_q.weight"], norm)
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert config["text_config"]["model_type"] == "qwen2_5_vl_text"
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [2, 3, 3]
    expected = {"depth": 3, "num_heads": 2, "out_hidden_size": 6, "fullatt_block_indexes": [1]}
    assert config["vision_config"].items() >= expected.items()
    assert config["image_token_id"] == 1
    assert config["vision_end_token_id"] == 2
    lacking = "video_token_id, vision_start_token_id, vision_config.window_size"
    assert f"a GGUF does not say {lacking}; complete it" in notes
    assert "no vision tower" not in notes


@pytest.mark.parametrize(
    ("projector", "tensor", "expected"),
    [
        ("new_one", "v.post_ln.weight", "projector 'new_one' is not in the table"),
        ("qwen2vl_merger", "v.new.weight", "tensor 'v.new.weight' is not in the table"),
    ],
)
def test_an_unknown_tower_is_left_out_with_a_note(
    projector: str, tensor: str, expected: str, tmp_path: Path
) -> None:
    config, tensors, notes = made(model(tmp_path, projector, {tensor: numbers(8)}))
    assert set(tensors) == {"model.norm.weight"}
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert f"the vision tower is left out: {tmp_path}" in notes
    assert expected in notes
    assert "no vision tower lies beside the file: config.json is of Qwen2ForCausalLM" in notes


def test_gemma3_s_image_token_follows_a_vocabulary_without_it() -> None:
    """The converter takes those of `tokenizer.model`; transformers adds the one it asks for."""
    around = ["<start_of_image>", "<end_of_image>"]
    sizes = dict.fromkeys(("clip.vision.image_size", "clip.vision.patch_size"), 4)
    for words, token, lacks in (
        (["a", *around], 3, ""),
        (["<image_soft_token>", *around], 0, ""),
        (["a"], None, "boi_token_index, eoi_token_index, image_token_index"),
    ):
        text = {"model_type": "gemma3_text"}
        config, notes = with_tower("Gemma3ForConditionalGeneration", text, sizes, words, {})
        assert config.get("image_token_index") == token
        assert ("".join(notes).partition("does not say ")[2].partition(";")[0]) == lacks
