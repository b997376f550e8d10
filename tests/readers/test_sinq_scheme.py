"""SINQ's layers: what is read and what is refused; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

LAYER: dict[str, Any] = {
    "W_q": np.full((4, 32), 0x21, np.uint8),
    "meta.scale": np.full((8, 1), 2, np.float32),
    "meta.zero": np.ones((8, 1), np.float32),
    "meta.scale2": np.arange(64, dtype=np.float32).reshape(1, 64),
}
BLOCK: dict[str, Any] = {"method": "sinq", "nbits": 4, "group_size": 32}


def opened(folder: Path, parts: dict[str, Any], block: Any = BLOCK) -> Any:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    config = {"quantization_config": {"quant_method": "sinq", **block}}
    (folder / "config.json").write_text(json.dumps(config))
    return anamnesis.open_model(folder)


def test_codes(tmp_path: Path) -> None:
    model = opened(tmp_path / "m", LAYER | {"meta.awq_scale": np.ones((1, 64), np.float32)})
    assert list(model) == ["x.weight"]
    values = model["x.weight"].to_numpy().astype(np.float32)
    first, last = LAYER["meta.scale2"] * 2, LAYER["meta.scale2"] * 0
    assert np.array_equal(values, np.concatenate([first, first, last, last]))


@pytest.mark.parametrize(
    ("parts", "block", "message"),
    [
        ({}, {"method": "sinq_nf4"}, "method 'sinq_nf4'"),
        ({}, {"method": None}, "method None"),
        ({}, {"nbits": 6}, "6 bits"),
        ({}, {"nbits": None}, "None bits"),
        ({"meta.scale": np.ones((2, 4, 1), np.float32)}, {}, "2D"),
        ({"meta.scale": None, "meta.scale.x": np.ones((8, 1), np.uint8)}, {}, "quantised scales"),
        ({"meta.scale": None, "meta": np.ones(8, np.uint8)}, {}, "not known"),
    ],
)
def test_what_is_refused(parts: Any, block: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        opened(tmp_path / "bad", LAYER | parts, BLOCK | block)


@pytest.mark.parametrize(
    "parts",
    [
        {"meta.scale2": None},
        {"meta.scale2": np.ones(64, np.float32)},
        {"meta.scale2": np.ones((1, 64), np.int32)},
        {"meta.scale2": np.ones((1, 0), np.float32)},
        {"meta.scale2": np.ones((1, 48), np.float32)},
        {"meta.scale": None},
        {"meta.scale": np.ones((7, 1), np.float32)},
        {"meta.scale": np.ones((8, 2), np.float32)},
        {"meta.zero": None},
        {"meta.zero": np.ones((4, 1), np.float32)},
        {"W_q": np.ones((8, 32), np.uint8)},  # as of 8 bits
        {"W_q": np.ones((4, 32), np.int32)},
    ],
)
def test_parts_that_do_not_fit(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path / "bad", LAYER | parts)
