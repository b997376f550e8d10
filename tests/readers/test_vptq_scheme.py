"""VPTQ's tensors and sizes that do not fit; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError

SIZES: dict[str, Any] = {
    "vector_lens": [4, 8],
    "num_centroids": [16, 200],
    "num_res_centroids": [-1, 16],
    "in_features": 20,
    "out_features": 24,
    "group_size": 16,
}
# 8 + 4 bits for 16 columns are 6 words.
LAYER: dict[str, Any] = {
    "indices": np.zeros((1, 3, 6), np.int32),
    "centroids.weight": np.ones((1, 1600), np.float16),
    "res_centroids.weight": np.ones((1, 128), np.float16),
    "outlier_indices": np.zeros((1, 6, 4), np.int16),
    "outlier_centroids.weight": np.ones((1, 64), np.float16),
    "perm": np.arange(20, dtype=np.int16),
    "weight_scale": np.ones(20, np.float16),
    "weight_bias": np.ones(20, np.float16),
}


def write(folder: Path, parts: dict[str, Any], sizes: Any = None) -> Path:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    layers = {"x": {**SIZES, **(sizes or {})}}
    block = {"quant_method": "vptq", "config_for_layers": layers}
    (folder / "config.json").write_text(json.dumps({"quantization_config": block}))
    return folder


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"indices": np.zeros((1, 3, 7), np.int32)}, FormatError),
        ({"indices": np.zeros((1, 4, 6), np.int32)}, FormatError),
        ({"indices": np.zeros((2, 3, 6), np.int32)}, FormatError),
        ({"indices": np.zeros((1, 3, 16), np.int16)}, UnsupportedError),
        ({"centroids.weight": np.ones((1, 1608), np.float16)}, FormatError),
        ({"centroids.weight": np.ones((1, 1600), np.int16)}, FormatError),
        ({"res_centroids.weight": None}, FormatError),
        ({"outlier_indices": np.zeros((1, 5, 4), np.int16)}, FormatError),
        ({"outlier_indices": np.zeros((6, 4), np.int16)}, FormatError),
        ({"outlier_centroids.weight": None}, FormatError),
        ({"perm": np.arange(19, dtype=np.int16)}, FormatError),
        ({"perm": np.ones(20, np.float16)}, FormatError),
        ({"weight_bias": None}, FormatError),
        ({"weight_scale": np.ones(24, np.float16)}, FormatError),
    ],
)
def test_parts_that_do_not_fit(change: Any, error: Any, tmp_path: Path) -> None:
    assert list(anamnesis.open_model(write(tmp_path / "good", LAYER))) == ["x.weight"]
    with pytest.raises(AnamnesisError) as caught:
        anamnesis.open_model(write(tmp_path / "bad", LAYER | change))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ({"vector_lens": None}, UnsupportedError),
        ({"num_centroids": [16, "200"]}, UnsupportedError),
        ({"norm_dim": 2}, UnsupportedError),
        ({"vector_lens": [4, 0]}, FormatError),
        ({"num_centroids": [16, 1]}, FormatError),
        ({"num_res_centroids": [16, 16]}, FormatError),
        ({"in_features": 21}, FormatError),
        ({"out_features": 25}, FormatError),
        ({"out_features": 16}, FormatError),
        ({"group_size": 8}, FormatError),
    ],
)
def test_sizes_that_do_not_agree(sizes: Any, error: Any, tmp_path: Path) -> None:
    with pytest.raises(AnamnesisError) as caught:
        anamnesis.open_model(write(tmp_path / "bad", LAYER, sizes))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"indices": np.full((1, 3, 6), 255, np.int32)}, "index of 255 in a codebook of 200"),
        ({"outlier_indices": np.full((1, 6, 4), 16, np.int16)}, "index of 16 in a book of 16"),
        ({"perm": np.zeros(20, np.int16)}, "does not order 20 columns"),
        ({"perm": np.arange(1, 21, dtype=np.int16)}, "does not order 20 columns"),
    ],
)
def test_numbers_beyond_their_range(change: Any, said: str, tmp_path: Path) -> None:
    model = anamnesis.open_model(write(tmp_path / "bad", LAYER | change))
    with pytest.raises(FormatError, match=said):
        model["x.weight"].to_numpy()
