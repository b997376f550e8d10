"""EXL3's tensors that do not fit, and what is said; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError

LAYER: dict[str, Any] = {
    "trellis": np.zeros((16, 8, 64), np.int16),
    "suh": np.ones(256, np.float16),
    "svh": np.ones(128, np.float16),
}
MCG = np.array(0xCBAC1FED, np.uint32).view(np.int32)


def write(folder: Path, parts: dict[str, Any], config: Any = None) -> Path:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    block = {"quantization_config": {"quant_method": "exl3", "bits": 4}, **(config or {})}
    (folder / "config.json").write_text(json.dumps(block))
    return folder


@pytest.mark.parametrize(
    ("part", "array", "error"),
    [
        ("trellis", np.zeros((16, 8, 56), np.int16), UnsupportedError),  # 3.5 bits, 3INST
        ("trellis", np.zeros((16, 8, 72), np.int16), FormatError),  # 4.5 bits
        ("trellis", np.zeros((16, 8, 60), np.int16), FormatError),
        ("trellis", np.zeros((16, 8, 144), np.int16), FormatError),  # 9 bits
        ("trellis", np.zeros((16, 8, 64), np.int32), FormatError),
        ("trellis", np.zeros((15, 8, 64), np.int16), FormatError),
        ("trellis", np.zeros((16, 9, 64), np.int16), FormatError),
        ("suh", None, FormatError),
        ("suh", np.ones(128, np.float16), FormatError),
        ("svh", np.ones(128, np.float32), FormatError),
        ("sv", np.zeros(8, np.int16), FormatError),  # beside svh: nothing reads it
        ("mcg", np.zeros(2, np.int32), FormatError),
    ],
)
def test_parts_that_do_not_fit(part: str, array: Any, error: Any, tmp_path: Path) -> None:
    assert list(anamnesis.open_model(write(tmp_path / "good", LAYER))) == ["x.weight"]
    with pytest.raises(AnamnesisError) as caught:
        anamnesis.open_model(write(tmp_path / "bad", LAYER | {part: array}))
    assert isinstance(caught.value, error | UnsupportedError)


def test_signs_on_one_side_alone(tmp_path: Path) -> None:
    parts = LAYER | {"svh": None, "sv": np.zeros(8, np.int16)}
    with pytest.raises(FormatError, match="kind of"):
        anamnesis.open_model(write(tmp_path / "bad", parts))


def test_two_codebooks_and_a_foreign_multiplier(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="one codebook"):
        anamnesis.open_model(write(tmp_path / "two", LAYER | {"mcg": MCG, "mul1": MCG}))
    anamnesis.open_model(write(tmp_path / "right", LAYER | {"mcg": MCG}))["x.weight"].to_numpy()
    model = anamnesis.open_model(write(tmp_path / "foreign", LAYER | {"mul1": MCG}))
    with pytest.raises(FormatError, match="0xcbac1fed"):
        model["x.weight"].to_numpy()


def test_what_is_no_bits_and_what_was_padded_is_said(tmp_path: Path) -> None:
    sizes = {"hidden_size": 250, "vocab_size": 128}
    notes = " ".join(anamnesis.inspect(write(tmp_path / "m", LAYER, sizes)).notes)
    assert "double precision" in notes
    assert "hidden_size 250" in notes
    assert "vocab_size" not in notes
