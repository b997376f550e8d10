"""The processor's files of a vision tower are read by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from towers import model, numbers

import anamnesis

transformers = pytest.importorskip("transformers")
image = pytest.importorskip("PIL.Image")
pytest.importorskip("gguf")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

MEAN, STD = np.array([0.5, 0.25, 0.75]), np.array([0.25, 0.5, 0.125])


def test_an_image_becomes_patches_of_the_tower_s_size(tmp_path: Path) -> None:
    keys = {"image_mean": MEAN.tolist(), "image_std": STD.tolist()}
    source = model(tmp_path, "qwen2vl_merger", {"v.post_ln.weight": numbers(8)}, **keys)
    out = tmp_path / "out"
    anamnesis.convert(source, out, to="hf")
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    found = processor(images=[image.fromarray(np.full((64, 96, 3), 255, np.uint8))])
    assert np.asarray(found["image_grid_thw"]).tolist() == [[1, 16, 24]]  # patches of 4 x 4
    pixels = np.asarray(found["pixel_values"]).reshape(16 * 24, 3, -1)
    assert np.allclose(pixels, ((1 - MEAN) / STD)[None, :, None], atol=1e-6)
