"""SqueezeLLM's layers: what is read, what does not fit; exact values are in tests/conformance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_layers import assert_misfit, assert_wrong_payload, write

import anamnesis

LAYER: dict[str, Any] = {
    "qweight": np.zeros((3, 4), np.int32),
    "lookup_table": np.arange(32, dtype=np.float32).reshape(4, 8),
    "rows": np.array([0, 1, 1, 2, 2], np.int32),
    "cols": np.array([31, 0], np.int32),
    "vals": np.array([0.5, 2], np.float32),
    "full_rows": np.ones((32, 1), np.float32),
    "full_row_indices": np.array([3], np.int32),
}
NO_OUTLIERS = dict.fromkeys(("rows", "cols", "vals", "full_rows", "full_row_indices"))


def test_what_is_added_is_of_its_place(tmp_path: Path) -> None:
    model = anamnesis.open_model(write(tmp_path / "m.safetensors", LAYER))
    expected = np.repeat(np.array([0, 8, 16, 25], np.float32), 32).reshape(4, 32)
    expected[0, 31] += 0.5
    expected[2, 0] += 2
    assert np.array_equal(model["x.weight"].to_numpy().astype(np.float32), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tables_of_other_dtypes_and_no_outliers(dtype: Any, tmp_path: Path) -> None:
    parts = LAYER | NO_OUTLIERS | {"lookup_table": LAYER["lookup_table"].astype(dtype)}
    values = anamnesis.open_model(write(tmp_path / "m.safetensors", parts))["x.weight"].to_numpy()
    assert np.array_equal(values[:, 7].astype(np.float32), [0, 8, 16, 24])


@pytest.mark.parametrize(
    "parts",
    [
        {"qweight": np.zeros((4, 4), np.int32)},
        {"qweight": np.zeros((3, 5), np.int32)},
        {"qweight": np.zeros((3, 4), np.int64)},
        {"lookup_table": np.zeros((4, 4), np.float32)},
        {"lookup_table": np.zeros((4, 8), np.int32)},
        {"lookup_table": np.zeros(8, np.float32)},
        {"rows": np.zeros(4, np.int32)},
        {"rows": np.zeros(5, np.int64)},
        {"rows": None},
        {"cols": np.zeros(3, np.int32)},
        {"cols": None},
        {"vals": np.zeros(2, np.float16)},
        {"vals": None},
        {"full_rows": np.zeros((32, 2), np.float32)},
        {"full_rows": None},
        {"full_row_indices": np.zeros(1, np.int64)},
        {"full_row_indices": None},
        {"extra_scale": np.zeros(2, np.float32)},
    ],
)
def test_parts_that_do_not_fit(parts: Any, tmp_path: Path) -> None:
    assert_misfit(LAYER | parts, tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rows": np.array([0, 1, 1, 2, 3], np.int32)}, "rows do not lead"),
        ({"rows": np.array([1, 1, 1, 2, 2], np.int32)}, "rows do not lead"),
        ({"rows": np.array([0, 2, 1, 2, 2], np.int32)}, "rows do not lead"),
        ({"cols": np.array([32, 0], np.int32)}, "cols: a number beyond 0 to 31"),
        ({"cols": np.array([31, -1], np.int32)}, "cols: a number beyond 0 to 31"),
        ({"full_row_indices": np.array([4], np.int32)}, "beyond 0 to 3"),
    ],
)
def test_payloads_that_lead_nowhere(parts: Any, message: str, tmp_path: Path) -> None:
    assert_wrong_payload(LAYER | parts, message, tmp_path)
