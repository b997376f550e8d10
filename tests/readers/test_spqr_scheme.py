"""SpQR's layers: what is read and what does not fit; exact values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from written_layers import assert_misfit, assert_reference, assert_wrong_payload, write

import anamnesis
from anamnesis.errors import UnsupportedError

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "layouts" / "spqr"
LAYER: dict[str, Any] = {
    "dense_weights": np.zeros(64, np.int64),
    "row_offsets": np.array([0, 1] + [2] * 31, np.int32),
    # 2.0 in column 3, -1.0 in column 0.
    "col_vals": np.array([0x40000003, 0xBC000000], np.uint32).view(np.int32),
    "in_perm": np.arange(32, dtype=np.uint16)[::-1].copy().view(np.int32),
}


@pytest.mark.parametrize("layer", ["csr", "ptcsr", "no-outliers"])
def test_the_codes_own_roundings(layer: str, tmp_path: Path) -> None:
    assert_reference(GOLDEN, layer, tmp_path)


def test_inputs_are_put_back(tmp_path: Path) -> None:
    model = anamnesis.open_model(write(tmp_path / "m.safetensors", LAYER))
    values = model["x.weight"].to_numpy().astype(np.float32)
    expected = np.zeros((32, 32), np.float32)
    expected[0, 28], expected[1, 31] = 2, -1  # the order of the inputs runs backwards
    assert np.array_equal(values, expected)


def test_scales_are_those_of_rows_in_tiles() -> None:
    found = anamnesis.stats(GOLDEN / "csr")["a.weight"]
    words = load_file(GOLDEN / "csr" / "model.safetensors")["a.dense_weights"].view(np.uint64)
    tiles = words.reshape(-1, 16)
    every_other = np.ascontiguousarray(tiles[:, ::2] >> np.uint64(54)).astype(np.uint8)
    numbers = every_other.view(np.float16).astype(np.float32)
    scales = ((tiles & np.uint64(7)).astype(np.float32) - numbers[:, 2:3]) * numbers[:, :1]
    assert (found.scale_min, found.scale_max) == (scales.min(), scales.max())


@pytest.mark.parametrize(
    "parts",
    [
        {"dense_weights": np.zeros(48, np.int64)},
        {"dense_weights": np.zeros(64, np.int32)},
        {"row_offsets": np.zeros(32, np.int32)},
        {"row_offsets": np.zeros(33, np.int64)},
        {"row_offsets": None},
        {"col_vals": np.zeros(2, np.float32)},
        {"col_vals": np.zeros((1, 2), np.int32)},
        {"col_vals": None},
        {"in_perm": np.zeros(12, np.int32)},
        {"in_perm": np.zeros(0, np.int32)},
        {"in_perm": np.zeros(16, np.int64)},
        {"in_perm": np.zeros(32, np.int16)},
        {"in_perm": None},
        {"extra_scale": np.zeros(2, np.float32)},
    ],
)
def test_parts_that_do_not_fit(parts: Any, tmp_path: Path) -> None:
    assert_misfit(LAYER | parts, tmp_path)


@pytest.mark.parametrize(("key", "value"), [("bits", 4), ("beta1", 8), ("beta2", 32)])
def test_other_widths_and_tiles(key: str, value: int, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", LAYER)
    block = {"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16} | {key: value}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": block}))
    with pytest.raises(UnsupportedError, match=f"SpQR with {key} {value}"):
        anamnesis.open_model(tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"row_offsets": np.array([1] + [2] * 32, np.int32)}, "row_offsets are not"),
        ({"row_offsets": np.array([0, 1] + [3] * 31, np.int32)}, "row_offsets are not"),
        ({"row_offsets": np.array([0, 2, 1] + [2] * 30, np.int32)}, "row_offsets are not"),
        ({"row_offsets": np.array([0, -1] + [2] * 31, np.int32)}, "row_offsets are not"),
        ({"row_offsets": np.array([0, 0, 2], np.int32)}, "in steps of 16"),
        ({"col_vals": np.array([3, 32], np.int32)}, "beyond 32 columns"),
        ({"col_vals": np.array([3, -1], np.int32)}, "beyond 32 columns"),
        ({"in_perm": np.zeros(16, np.int32)}, "no permutation"),
    ],
)
def test_payloads_that_lead_nowhere(parts: Any, message: str, tmp_path: Path) -> None:
    assert_wrong_payload(LAYER | parts, message, tmp_path)
