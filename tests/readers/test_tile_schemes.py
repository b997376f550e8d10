"""Marlin 2:4 and QQQ: names, shapes, refusals; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError

DATA = Path(__file__).resolve().parents[1] / "data" / "layouts"
SPARSE: dict[str, Any] = {
    "weight_packed": np.full((2, 128), 0x77777777, np.int32),
    "meta": np.full((2, 128), 0x4444, np.int16),
    "scale_packed": np.ones((1, 64), np.float16),
}
QQQ: dict[str, Any] = {
    "B": np.full((2, 128), 0x77777777, np.int32),
    "s_channel": np.ones((1, 64), np.float32),
    "s_group": np.full((2, 64), 2, np.float16),
}


def opened(folder: Path, parts: dict[str, Any], method: str = "") -> Any:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    block = {"quantization_config": {"quant_method": method}} if method else {}
    (folder / "config.json").write_text(json.dumps(block))
    return anamnesis.open_model(folder)


def values(model: Any) -> Any:
    return model["x.weight"].to_numpy().astype(np.float32)


@pytest.mark.parametrize("method", ["", "compressed-tensors"])
def test_two_of_four_are_kept(method: str, tmp_path: Path) -> None:
    model = opened(tmp_path / "m", SPARSE, method)
    assert list(model) == ["x.weight"]
    assert np.array_equal(values(model).reshape(-1, 4), [[-1, -1, 0, 0]] * (64 * 64 // 4))


@pytest.mark.parametrize("layout", ["marlin-24-4-128-512", "marlin-24-8-channel-256"])
def test_the_names_of_sparse_marlin(layout: str, tmp_path: Path) -> None:
    folder = DATA / "compressed-tensors" / layout
    stored = load_file(folder / "model.safetensors")
    renamed = {"weight_packed": "B_24", "meta": "B_meta", "scale_packed": "s"}
    parts = {new: stored[f"a.{old}"] for old, new in renamed.items()}
    parts["workspace"] = np.zeros(16, np.int32)
    found = values(opened(tmp_path / "m", parts, "gptq_marlin_24"))
    bits = load_file(folder / "expected.safetensors")["a.weight"]
    assert np.array_equal(found, (bits.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize("groups", [0, 1, 2])
def test_the_groups_of_qqq(groups: int, tmp_path: Path) -> None:
    parts = QQQ | {"s_group": np.full((groups, 64), 2.5, np.float16), "workspace": np.ones(2)}
    found = values(opened(tmp_path / "m", parts, "qqq"))
    assert np.array_equal(found, np.full((64, 32), -2 if groups else 7 * 16))  # 2.5 to even


def changed(name: str, value: Any) -> Any:
    return (SPARSE if name in SPARSE else QQQ) | {name: value}


@pytest.mark.parametrize(
    "parts",
    [
        changed("weight_packed", np.ones((2, 96), np.int32)),
        changed("weight_packed", np.ones((2, 128), np.int64)),
        changed("weight_packed", np.ones((0, 128), np.int32)),
        changed("meta", np.ones((2, 64), np.int16)),
        changed("meta", np.ones((2, 128), np.int32)),
        changed("scale_packed", None),
        changed("scale_packed", np.ones((1, 32), np.float16)),
        changed("scale_packed", np.ones((3, 64), np.float16)),
        changed("scale_packed", np.ones((1, 64), np.float32)),
        changed("B", np.ones((2, 96), np.int32)),
        changed("s_channel", np.ones((1, 64), np.float16)),
        changed("s_channel", np.ones((2, 64), np.float32)),
        changed("s_group", np.ones((3, 64), np.float16)),
        changed("s_group", np.ones((4, 64), np.float16)),
    ],
)
def test_what_does_not_fit(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path / "bad", parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (changed("meta", np.zeros((2, 128), np.int16)), "keeps one input"),
        (changed("meta", np.full((2, 128), 0x1111, np.int16)), "wrong order"),
        (changed("s_group", np.full((2, 64), np.inf, np.float16)), "no finite number"),
    ],
)
def test_numbers_that_are_none(parts: Any, message: str, tmp_path: Path) -> None:
    model = opened(tmp_path / "bad", parts)
    with pytest.raises(AnamnesisError, match=message):
        values(model)
