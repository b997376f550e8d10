"""ParoQuant's parts that do not fit; and values against what its own code and others' make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

DATA = Path(__file__).parents[1] / "data" / "paroquant"
PAIRS = np.tile(np.arange(32, dtype=np.int16), (2, 2))
LAYER: dict[str, Any] = {
    "qweight": np.zeros((64, 4), np.int32),
    "qzeros": np.zeros((2, 4), np.int32),
    "scales": np.ones((2, 32), np.float16),
    "theta": np.ones((2, 32), np.float16),
    "pairs": PAIRS,
    "channel_scales": np.ones((1, 64), np.float16),
}


def write(folder: Path, parts: dict[str, Any]) -> Path:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    about = {"quant_method": "paroquant", "bits": 4, "group_size": 32, "krot": 2}
    (folder / "config.json").write_text(json.dumps({"quantization_config": about}))
    return folder


def opened(folder: Path) -> Any:
    return anamnesis.open_model(folder, rounding="reference")


def changed(at: int, to: int) -> Any:
    pairs = PAIRS.copy()
    pairs[1, at] = to
    return pairs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": None}, "x.pairs"),
        ({"channel_scales": None}, "x.channel_scales"),
        ({"theta": None, "pairs": None, "channel_scales": None}, "no 'x.theta'.* says paroquant"),
        ({"theta": np.ones((1, 32), np.float16), "pairs": PAIRS[:1]}, "2 rotations, as krot"),
        ({"theta": np.ones((2, 31), np.float16)}, "rotations"),
        ({"theta": np.ones((3, 32), np.float16)}, "I16"),
        ({"pairs": PAIRS.astype(np.int32)}, "I16"),
        ({"channel_scales": np.ones((1, 63), np.float16)}, "does not fit"),
        ({"pairs": changed(5, 32)}, "beyond their groups of 32 columns"),
        ({"pairs": changed(5, -1)}, "beyond their groups of 32 columns"),
        ({"pairs": changed(5, 6)}, "turn a column twice"),
    ],
)
def test_parts_that_do_not_fit(change: Any, said: str, tmp_path: Path) -> None:
    opened(write(tmp_path / "good", LAYER))["x.weight"].to_numpy()
    with pytest.raises(FormatError, match=said):
        opened(write(tmp_path / "bad", LAYER | change))["x.weight"].to_numpy()


def test_it_is_refused_by_name_where_bits_are_exact(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LAYER)
    with pytest.raises(UnsupportedError, match=r"paroquant.*--rounding reference"):
        anamnesis.open_model(folder)
    notes = anamnesis.inspect(folder, rounding="reference").notes
    assert any("double" in note for note in notes)


@pytest.mark.parametrize("name", ["linear", "experts"])
def test_turns_undone(name: str) -> None:
    expected = load_file(DATA / name / "expected.safetensors")
    model = opened(DATA / name)
    assert set(model) == set(expected)
    for tensor, bits in expected.items():
        assert (model[tensor].to_numpy().view(np.uint16) == bits).all(), tensor
