"""A vision tower beside a text model: it comes along, or a note says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import anamnesis
from anamnesis.names.vision import TOWERS
from anamnesis.names.vision_config import CLASSES

gguf = pytest.importorskip("gguf")


def numbers(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


def write(path: Path, name: str, keys: dict[str, Any], tensors: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(str(path), name)
    for key, value in keys.items():
        kinds = {int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        kinds[float] = writer.add_float32
        kinds[type(value)](key, value)
    for tensor, array in tensors.items():
        writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def model(folder: Path, projector: str, tensors: dict[str, Any], **keys: Any) -> Path:
    """A Qwen2-VL's text model of one tensor, and a tower of that projector beside it."""
    sizes = {"embedding_length": 8, "block_count": 3, "feed_forward_length": 32, "patch_size": 4}
    sizes |= {"attention.head_count": 2, "projection_dim": 6, "image_size": 16} | keys
    settings = {"clip.projector_type": projector}
    settings |= {f"clip.vision.{key}": value for key, value in sizes.items()}
    write(folder / "mmproj-model.gguf", "clip", settings, tensors)
    text = {"tokenizer.ggml.tokens": ["a", "<|image_pad|>", "<|vision_end|>"]}
    text["qwen2vl.rope.dimension_sections"] = [2, 3, 3, 0]  # type: ignore[assignment]
    return write(folder / "model.gguf", "qwen2vl", text, {"output_norm.weight": numbers(8)})


def made(source: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The configuration, the tensors and the remarks of the folder of a model."""
    out = source.parent / "out"
    done = anamnesis.convert(source, out, to="hf")
    config = json.loads((out / "config.json").read_text())
    return config, load_file(out / "model.safetensors"), "\n".join(done.notes)


def test_every_tower_has_a_class() -> None:
    assert sorted(CLASSES) == sorted(tower.architecture for tower in TOWERS)


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
    assert f"a GGUF does not say {lacking}, the files of its processor" in notes
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
