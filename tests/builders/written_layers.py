"""A layer `x` of arrays, written to a file; and what is asked of every layout that is read so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError


def write(path: Path, parts: dict[str, Any]) -> Path:
    """The parts that are not None, in a file."""
    save_file({f"x.{name}": array for name, array in parts.items() if array is not None}, path)
    return path


def assert_misfit(parts: dict[str, Any], folder: Path) -> None:
    """Its shapes and dtypes refuse it, before any payload is read."""
    with pytest.raises((FormatError, UnsupportedError)):
        anamnesis.open_model(write(folder / "bad.safetensors", parts))


def assert_wrong_payload(parts: dict[str, Any], said: str, folder: Path) -> None:
    """Its numbers refuse it, and nothing is left behind."""
    path, out = write(folder / "bad.safetensors", parts), folder / "out.safetensors"
    with pytest.raises(FormatError, match=said):
        anamnesis.remember(path, out, threads=1)
    assert not out.exists()


def assert_reference(golden: Path, layer: str, folder: Path) -> None:
    """`rounding: reference` gives the bits of the layout's own kernels, of `a.weight`."""
    out = folder / "out.safetensors"
    anamnesis.remember(golden / layer, out, rounding="reference", threads=1)
    got = anamnesis.open_model(out)["a.weight"].to_numpy()
    assert np.array_equal(got.view(np.uint16), load_file(golden / "reference.safetensors")[layer])
