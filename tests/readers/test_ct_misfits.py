"""compressed-tensors whose parts do not fit, or whose layout is sparse: refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ct_parts import CT, Tensors, config, int8, packed
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.model import load_model


@pytest.mark.parametrize(
    "other",
    [
        {"weight_scale": None},
        {"weight_shape": None},
        {"weight_shape": np.array([16, 64, 1], np.int64)},
        {"weight_shape": np.array([15, 64], np.int64)},
        {"weight_shape": np.array([16, -64], np.int64)},
        {"weight_shape": np.array([16, 1 << 62], np.int64)},
        {"weight_shape": np.array([16, 32], np.int64)},
        {"weight_shape": np.array([16, 64], np.int16)},
        {"weight_shape": np.array([16, 64], np.float32)},
        {"weight_scale": np.ones((16, 3), np.float32)},
        {"weight_scale": np.ones((15, 2), np.float32)},
        {"weight_scale": np.ones((16, 0), np.float32)},
        {"weight_scale": np.ones(16, np.float32)},
        {"weight_scale": np.ones((16, 2), np.float64)},
        {"weight_scale": np.ones((16, 2), np.int8)},
        {"weight_zero_point": np.ones((3, 2), np.int32)},
        {"weight_zero_point": np.ones((2, 1), np.int32)},
        {"weight_zero_point": np.ones((2, 2), np.int64)},
        {"weight_zero_point": np.ones((2, 2), np.int8)},
        {"weight_zero_point": np.ones(2, np.int32)},
        {"weight_packed": np.ones((16, 9), np.int32)},
        {"weight_packed": np.ones(128, np.int32)},
        {"weight_packed": np.ones((2, 2, 8, 8), np.int32)},
    ],
    ids=lambda o: " ".join(f"{k} {getattr(v, 'shape', v)} {v!r:.30}" for k, v in o.items()),
)
def test_parts_that_do_not_fit(other: Tensors, one: Any) -> None:
    parts = packed(weight_scale=np.ones((16, 2), np.float32)) | packed(**other)
    for role, part in other.items():
        if part is None:
            del parts[f"m.q_proj.{role}"]
    with pytest.raises(FormatError, match=r"model\.safetensors: tensor 'm\.q_proj\.weight_"):
        one(parts, config(4, "0.17.1"))


@pytest.mark.parametrize(
    "other",
    [
        {"scale": np.ones(16, np.float32)},
        {"scale": np.ones((1, 64), np.float32)},
        {"scale": np.ones((16, 2), np.int32)},
        {"weight_zero_point": np.ones((16, 2), np.int8)},
        {"weight_zero_point": np.ones((16, 1), np.int32)},
        {"weight_zero_point": np.ones((16, 1), np.float32)},
    ],
    ids=lambda o: " ".join(f"{k} {v.dtype} {v.shape}" for k, v in o.items()),
)
def test_int8_parts_that_do_not_fit(other: Tensors, one: Any) -> None:
    with pytest.raises(FormatError, match=r"model\.safetensors: tensor 'm\.q_proj\.weight_"):
        one(int8(**other), CT)


SPARSE = {
    "compressed": np.ones((16, 32), ml_dtypes.bfloat16),
    "bitmask": np.ones((16, 8), np.uint8),
    "shape": np.array([[16], [64]], np.int64),
}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (SPARSE | {"row_offsets": np.zeros(16, np.int64)}, "sparse-bitmask"),
        (SPARSE | {"compressed": np.ones((16, 32), np.int64)}, "sparse-24-bitmask of I64"),
    ],
    ids=["unstructured", "24-int64"],
)
def test_sparse_layouts_are_refused_by_name(parts: Tensors, name: str, tmp_path: Path) -> None:
    for stem in ("m.q_proj.", ""):
        for about in ({}, CT):
            save_file({stem + k: v for k, v in parts.items()}, tmp_path / "model.safetensors")
            text = json.dumps({"quantization_config": about} if about else {})
            (tmp_path / "config.json").write_text(text)
            with pytest.raises(UnsupportedError, match=name):
                load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"bitmask": np.ones((16, 7), np.uint8)}, "U8"),
        ({"compressed": np.ones((16, 33), np.float32)}, "a multiple of 4"),
        ({"compressed": np.ones((16, 32), np.int8)}, "weight_scale"),
        ({"bitmask": np.full((16, 8), 0x75, np.uint8)}, "two of four"),
    ],
)
def test_sparse_parts_that_do_not_fit(parts: Tensors, message: str, tmp_path: Path) -> None:
    good = SPARSE | {"bitmask": np.full((16, 8), 0x65, np.uint8)}
    save_file({f"m.{k}": v for k, v in good.items()}, tmp_path / "good.safetensors")
    assert list(anamnesis.open_model(tmp_path / "good.safetensors")) == ["m.weight"]
    save_file({f"m.{k}": v for k, v in (good | parts).items()}, tmp_path / "bad.safetensors")
    with pytest.raises(FormatError, match=message):
        anamnesis.remember(tmp_path / "bad.safetensors", tmp_path / "out.safetensors", threads=1)


@pytest.mark.parametrize(
    "about",
    [
        {"quant_method": "quark"},
        {"quant_method": "hqq"},
    ],
    ids=str,
)
def test_another_tool_s_int8_is_left_alone(about: Any, one: Any) -> None:
    with pytest.raises(AnamnesisError):
        one(int8(), about)
    with pytest.raises(UnsupportedError, match=r"pre_quant_scale.*ModelOpt.*hf_quant_config.json"):
        one(int8(pre_quant_scale=np.ones(64, np.float32)), CT)
