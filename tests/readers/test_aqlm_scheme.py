"""AQLM's tensors that do not fit; values are held to aqlm's own in tests/conformance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError


@pytest.mark.parametrize(
    ("part", "array", "error"),
    [
        ("codes", None, FormatError),
        ("codes", np.zeros((24, 4, 2), np.int8), FormatError),
        ("codes", np.zeros((24, 4, 1), np.int16), UnsupportedError),  # 6 bits
        ("codes", np.zeros((24, 4, 1), np.int32), UnsupportedError),
        ("codebooks", np.zeros((1, 48, 1, 8), np.float16), FormatError),
        ("codebooks", np.zeros((1, 512, 1, 8), np.float16), UnsupportedError),  # 9 bits in I8
        ("scales", np.zeros((24, 4, 1, 1), np.float16), FormatError),
        ("scales", None, FormatError),
    ],
)
def test_parts_that_do_not_fit(part: str, array: Any, error: Any, tmp_path: Path) -> None:
    layer = {
        "codes": np.zeros((24, 4, 1), np.int8),
        "codebooks": np.zeros((1, 64, 1, 8), np.float16),
        "scales": np.zeros((24, 1, 1, 1), np.float16),
    }
    save_file({f"x.{k}": v for k, v in layer.items()}, tmp_path / "good.safetensors")
    assert list(anamnesis.open_model(tmp_path / "good.safetensors")) == ["x.weight"]
    parts = {k: v for k, v in (layer | {part: array}).items() if v is not None}
    save_file({f"x.{k}": v for k, v in parts.items()}, tmp_path / "bad.safetensors")
    with pytest.raises(AnamnesisError) as caught:
        anamnesis.open_model(tmp_path / "bad.safetensors")
    assert type(caught.value) is error
