"""EXL2's layers: what is read and what does not fit; exact values are held in tests/conformance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_layers import assert_misfit, assert_reference, assert_wrong_payload, write

import anamnesis

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "layouts" / "exllamav2"
LAYER: dict[str, Any] = {
    "q_weight": np.zeros((12, 8), np.int32),
    "q_groups": np.array([8, 0, 4, 8], np.int16),
    "q_scale": np.zeros((2, 1), np.int32),
    "q_scale_max": np.full(2, 256, np.float16),
    "q_invperm": np.arange(64, dtype=np.int32)[::-1].copy(),
}


@pytest.mark.parametrize("layer", ["every-width", "4-and-2-bits"])
def test_the_kernels_own_roundings(layer: str, tmp_path: Path) -> None:
    assert_reference(GOLDEN, layer, tmp_path)


@pytest.mark.parametrize("order", [{}, {"q_perm": np.arange(64, dtype=np.int32)}])
def test_inputs_are_put_back(order: Any, tmp_path: Path) -> None:
    model = anamnesis.open_model(write(tmp_path / "m.safetensors", LAYER | order))
    row = model["x.weight"].to_numpy()[0].astype(np.float32)
    assert np.array_equal(row, np.repeat([-8, -128], 32))  # the 8 bits are last, by the order


def test_a_permutation_that_stands_alone(tmp_path: Path) -> None:
    order = np.roll(np.arange(64, dtype=np.int32), 3)
    parts = LAYER | {"q_invperm": None, "q_perm": order}
    row = anamnesis.open_model(write(tmp_path / "m.safetensors", parts))["x.weight"].to_numpy()[0]
    expected = np.empty(64, np.float32)
    expected[order] = np.repeat([-128, -8], 32)
    assert np.array_equal(row.astype(np.float32), expected)


@pytest.mark.parametrize(
    "parts",
    [
        {"q_weight": np.zeros((12, 7), np.int32)},
        {"q_weight": np.zeros((12, 8), np.int16)},
        {"q_weight": np.zeros((3, 8), np.int32)},
        {"q_groups": np.zeros(3, np.int16)},
        {"q_groups": np.zeros(0, np.int16)},
        {"q_groups": np.zeros(4, np.int32)},
        {"q_groups": None},
        {"q_scale": np.zeros((1, 1), np.int32)},
        {"q_scale": None},
        {"q_scale_max": np.zeros(2, np.float32)},
        {"q_scale_max": None},
        {"q_invperm": None},
        {"q_invperm": np.zeros((2, 32), np.int32)},
        {"q_invperm": np.zeros(64, np.float32)},
        {"extra_scale": np.zeros(2, np.float32)},
    ],
)
def test_parts_that_do_not_fit(parts: Any, tmp_path: Path) -> None:
    assert_misfit(LAYER | parts, tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"q_groups": np.array([7, 0, 4, 8], np.int16)}, "widths of"),
        ({"q_groups": np.array([8, 1, 4, 8], np.int16)}, "widths of"),
        ({"q_groups": np.array([8, 0, 4, 0], np.int16)}, "widths of"),
        ({"q_groups": np.array([8, 0, 4, 12], np.int16)}, "widths of"),
        ({"q_groups": np.array([8, 0, 4, -1], np.int16)}, "widths of"),
        ({"q_groups": np.array([8, 0, 3, 8], np.int16)}, "inputs; allowed are 64"),
        ({"q_groups": np.array([4, 0, 4, 8], np.int16)}, "inputs; allowed are 64"),
        ({"q_invperm": np.zeros(64, np.int32)}, "no permutation"),
        ({"q_invperm": np.arange(1, 65, dtype=np.int32)}, "no permutation"),
    ],
)
def test_groups_that_are_not_those_of_the_words(parts: Any, message: str, tmp_path: Path) -> None:
    assert_wrong_payload(LAYER | parts, message, tmp_path)
