"""Arguments of a kind that a function does not take: an error that names the keyword."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import ArgumentError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_file({"x": np.ones((2, 2), np.float32)}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("value", [5, {"a": 1}, b"x*", [5], [b"x"]], ids=repr)
def test_patterns(value: Any, model: Path) -> None:
    out = model.parent / "o.arrow"
    for name in ("include", "exclude"):
        given: dict[str, Any] = {name: value}
        for call in (
            lambda given=given: anamnesis.remember(model, out, **given),
            lambda given=given: anamnesis.stats(model, **given),
            lambda given=given: anamnesis.diff(model, model, **given),
        ):
            with pytest.raises(ArgumentError, match=f"^{name}: found .*; allowed: a pattern"):
                call()
    with pytest.raises(ArgumentError, match=r"^tensors: found"):
        anamnesis.scan(model, value)
    assert not out.exists()


def test_paths(model: Path) -> None:
    none: Any = None
    with pytest.raises(ArgumentError, match="remember: out: found None; allowed: a path"):
        anamnesis.remember(model, none)
    with pytest.raises(ArgumentError, match="stats: path: found None"):
        anamnesis.stats(path=none)
    with pytest.raises(ArgumentError, match="open_model: path: found 5"):
        anamnesis.open_model(5)  # type: ignore[arg-type]
