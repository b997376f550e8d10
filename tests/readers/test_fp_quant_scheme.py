"""FP-Quant's layers: what is read and what does not fit; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

BF16 = ml_dtypes.bfloat16
LAYER: dict[str, Any] = {
    "qweight": np.full((4, 32), 0x22, np.uint8),
    "scales": np.full((4, 2), 127, np.uint8),
    "weight_global_scale": np.full(1, 2, BF16),
    "act_global_scale": np.ones(1, BF16),
    "forward_hadamard_matrix": np.eye(32, dtype=BF16)[::-1].copy(),
    "backward_hadamard_matrix": np.eye(32, dtype=BF16),
}


def opened(folder: Path, parts: dict[str, Any]) -> Any:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    block = {"quant_method": "fp_quant", "hadamard_group_size": 32, "transform_init": "hadamard"}
    (folder / "config.json").write_text(json.dumps({"quantization_config": block}))
    return anamnesis.open_model(folder)


def test_codes(tmp_path: Path) -> None:
    empty = {name: np.zeros(0, np.float32) for name in ("weight", "dqweight")}
    model = opened(tmp_path / "m", LAYER | empty)
    assert list(model) == ["x.weight"]
    assert np.all(model["x.weight"].to_numpy() == 0.5)  # e2m1 code 2 is 1, over 2


def test_codes_of_the_first_releases(tmp_path: Path) -> None:
    """fp-quant 0.1.6: `dequantize_mxf4_bf16(weight_q, weight_scales) / 3.0`, nothing stored."""
    scales = {"act_global_scale": None, "weight_global_scale": None}
    model = opened(tmp_path / "m", LAYER | scales)
    assert np.all(model["x.weight"].to_numpy() == BF16(1 / 3))
    assert "as fp-quant 0.1 wrote them, over 3" in str(model.model.notes)


def test_scales_of_rows_that_fill_a_tile(tmp_path: Path) -> None:
    model = opened(tmp_path / "m", LAYER | {"scales": np.full((128, 2), 127, np.uint8)})
    assert model["x.weight"].shape == (4, 64)


def test_numbers_that_were_rounded_and_kept(tmp_path: Path) -> None:
    numbers = np.arange(64, dtype=np.float32).reshape(1, 64).astype(BF16)
    parts = LAYER | {"qweight": None, "scales": None, "dqweight": numbers}
    model = opened(tmp_path / "m", parts)
    expected = numbers.reshape(2, 32)[:, ::-1].reshape(1, 64)
    assert np.array_equal(model["x.weight"].to_numpy(), expected)


def test_weights_as_they_were_trained(tmp_path: Path) -> None:
    numbers = np.arange(64, dtype=np.float32).reshape(1, 64).astype(BF16)
    model = opened(tmp_path / "m", LAYER | {"qweight": None, "scales": None, "weight": numbers})
    assert list(model) == ["x.weight"]
    assert np.array_equal(model["x.weight"].to_numpy(), numbers)


@pytest.mark.parametrize(
    "parts",
    [
        {"qweight": np.zeros((4, 32), np.int8)},
        {"qweight": np.zeros((4, 32, 1), np.uint8)},
        {"qweight": None},  # and scales of nothing
        {"scales": None},
        {"scales": np.zeros((4, 3), np.uint8)},
        {"scales": np.zeros((5, 2), np.uint8)},
        {"scales": np.zeros((4, 2), np.float32)},
        {"weight_global_scale": None, "scales": np.full((4, 4), 56, np.uint8)},  # NVFP4
        {"weight_global_scale": np.ones(2, BF16)},
        {"forward_hadamard_matrix": np.ones((3, 3), BF16)},
        {"forward_hadamard_matrix": np.ones((32, 16), BF16)},
        {"forward_hadamard_matrix": np.ones((32, 32), np.int8)},
    ],
)
def test_parts_that_do_not_fit(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path / "bad", LAYER | parts)


def test_layers_without_a_matrix_are_refused(tmp_path: Path) -> None:
    with pytest.raises((FormatError, UnsupportedError)):
        opened(tmp_path / "bad", LAYER | {"forward_hadamard_matrix": None})


def test_one_layer_without_a_matrix_is_refused(tmp_path: Path) -> None:
    """Its numbers are floats under a name of no layer, and turned all the same."""
    with pytest.raises(FormatError, match=r"no 'x\.y\.forward_hadamard_matrix' beside it"):
        opened(tmp_path / "m", LAYER | {"y.dqweight": np.ones((4, 64), BF16)})
