"""Four Over Six: what of its tensors and configuration is read; values are in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import float8_e4m3fn
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

LAYER: dict[str, Any] = {
    "values": np.full((128, 32), 0x22, np.uint8),  # 1
    "scale_factors": np.ones(512, np.float32).astype(float8_e4m3fn),
    "amax": np.full(1, 3 * 1792, np.float32),
    "metadata": np.array([100, 50, 128, 64, 1, 1]),
}


def opened(folder: Path, parts: dict[str, Any], block: Any) -> Any:
    folder.mkdir()
    stored = {f"a.b.quantized_weight_{n}": p for n, p in parts.items() if p is not None}
    save_file(stored, folder / "model.safetensors")
    config = {"quantization_config": {"quant_method": "fouroversix", **block}}
    (folder / "config.json").write_text(json.dumps(config if block is not None else {}))
    return anamnesis.open_model(folder)


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ({}, 3 * 1792 / 1536),
        ({"scale_rule": "static_6"}, 2),
        ({"scale_rule": "static_4"}, 3),
        ({"weight_scale_rule": "static_6", "scale_rule": "mse"}, 2),
        ({"module_config_overrides": {"a.b": {"scale_rule": "static_6"}}}, 2),
        ({"module_config_overrides": {"a.c": {"scale_rule": "static_6"}}}, 3.5),
        ({"dtype": "nvint4", "scale_rule": "static_6"}, 2 * 3 * 1792 / 3136),
        ({"dtype": "if4", "weight_round_style": "nearest"}, 2),
        ({"weight_dtype": "nvfp4", "dtype": "mxfp4", "scale_rule": "static_6"}, 2),
    ],
)
def test_what_the_configuration_says(block: Any, value: float, tmp_path: Path) -> None:
    found = opened(tmp_path / "m", LAYER, block)["a.b.weight"].to_numpy()
    assert found.shape == (100, 50)
    wanted = np.full(1, value, np.float32).astype("bfloat16")
    assert (found.view(np.uint16) == wanted.view(np.uint16)).all()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"dtype": "nvfp6_e2m3"}, "'nvfp6_e2m3'"),
        ({"dtype": "if4_bs8"}, "'if4_bs8'"),
        ({"scale_rule": "static_5"}, "'static_5'"),
        ({"weight_round_style": "stochastic_unbiased"}, "stochastic_unbiased"),
    ],
)
def test_kinds_that_are_refused(block: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        opened(tmp_path / "m", LAYER, block)


def test_without_a_configuration(tmp_path: Path) -> None:
    stored = {f"a.quantized_weight_{n}": p for n, p in LAYER.items()}
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="configuration is not there"):
        anamnesis.open_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": None},
        {"metadata": np.array([100, 50, 128, 64])},
        {"metadata": np.array([200, 50, 128, 64, 1, 1])},
        {"metadata": np.array([100, -1, 128, 64, 1, 1])},
        {"metadata": np.array([100, 50, 100, 64, 1, 1])},
        {"metadata": np.array([100, 50, 128, 64, 1, 2])},
        {"metadata": np.array([100.0, 50, 128, 64, 1, 1])},
        {"scale_factors": None},
        {"scale_factors": np.ones(512, np.uint8)},
        {"scale_factors": LAYER["scale_factors"][:256]},
        {"amax": None},
        {"amax": np.ones(2, np.float32)},
        {"values": np.ones((128, 32), np.int8)},
        {"values": np.ones((64, 64), np.uint8)},
    ],
)
def test_what_does_not_fit(change: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path / "m", LAYER | change, {})
