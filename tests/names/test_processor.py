"""The files of a processor, out of the key/values of a vision tower."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from towers import model, numbers

import anamnesis
from anamnesis.names.processor import PROCESSORS, processor_files
from anamnesis.names.tower_rows import READ

SIZES = {
    "clip.vision.image_size": 896,
    "clip.vision.patch_size": 14,
    "clip.vision.image_mean": [0.5, 0.5 - 2**-6, 0.25],
    "clip.vision.image_std": [0.5, 0.5, 0.5],
}


def test_every_tower_has_a_processor() -> None:
    assert sorted(PROCESSORS) == sorted(
        {name for tower in READ for name in tower.classes if name not in tower.others}
    )


def test_gemma3_s_image_is_256_tokens() -> None:
    found = processor_files("Gemma3ForConditionalGeneration", SIZES)
    expected = {"processor_class": "Gemma3Processor", "image_seq_length": 256}
    assert found["processor_config.json"] == expected
    images = found["preprocessor_config.json"]
    assert images["size"] == {"height": 896, "width": 896}
    assert images["image_mean"] == [0.5, 0.484375, 0.25]


def test_a_scale_of_the_projector_counts() -> None:
    sizes = SIZES | {"clip.vision.projector.scale_factor": 2}
    found = processor_files("Idefics3ForConditionalGeneration", sizes)
    assert found["processor_config.json"]["image_seq_len"] == 32 * 32
    assert found["preprocessor_config.json"]["size"] == {"longest_edge": 4 * 896}


def test_pixels_of_the_file_count() -> None:
    sizes = SIZES | {"clip.vision.image_min_pixels": 784, "clip.vision.image_max_pixels": 7840}
    found = processor_files("Qwen2VLForConditionalGeneration", sizes)
    expected = {"longest_edge": 7840, "shortest_edge": 784}
    assert found["preprocessor_config.json"]["size"] == expected
    videos = found["video_preprocessor_config.json"]
    assert videos["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert "image_processor_type" not in videos


def test_a_folder_has_them(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    source = model(tmp_path, "qwen2vl_merger", {"v.post_ln.weight": numbers(8)})
    out = tmp_path / "out"
    anamnesis.convert(source, out, to="hf")
    images = json.loads((out / "preprocessor_config.json").read_text())
    assert (images["patch_size"], images["merge_size"]) == (4, 2)
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["processor_class"] == "Qwen2VLProcessor"
