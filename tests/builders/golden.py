"""Golden files: a model of packed layers, and the BF16 bits that a library made of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import anamnesis
from anamnesis.pipeline import plan


def expected_bits(path: Path, other: str, *, others: bool) -> dict[str, Any]:
    """BF16 bits by name; with `others` those of `NAME.other` where there are any."""
    found = load_file(path)
    plain = {name: bits for name, bits in found.items() if not name.endswith(f".{other}")}
    if others:
        plain |= {name: found.get(f"{name}.{other}", bits) for name, bits in plain.items()}
    return plain


def read_ahead(monkeypatch: pytest.MonkeyPatch, nbytes: int, window_bytes: int = 600) -> None:
    """Below a MiB: read so many bytes at once, in windows and tasks of a few rows."""
    if nbytes < 1 << 20:
        monkeypatch.setattr(plan, "WINDOW_BYTES", window_bytes)
        monkeypatch.setattr(plan, "TASK_BYTES", 3 * window_bytes)
        monkeypatch.setattr(plan, "READ_AHEAD_BYTES", nbytes)


def assert_same_in_windows(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 2,000 bytes give the same file as the usual ones."""
    anamnesis.remember(source, folder / "whole.safetensors", threads=1)
    monkeypatch.setattr(plan, "WINDOW_BYTES", 2000)
    monkeypatch.setattr(plan, "TASK_BYTES", 9000)
    anamnesis.remember(source, folder / "parts.safetensors", threads=1)
    whole, parts = (folder / f"{name}.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def assert_bits(out: Path, wanted: dict[str, Any], dense: set[str]) -> None:
    """A file of these tensors, and of dense ones that nobody decoded."""
    found = load_file(out)
    assert set(found) - set(wanted) == dense
    for name, bits in wanted.items():
        assert found[name].shape == bits.shape, name
        np.testing.assert_array_equal(found[name].view(np.uint16), bits, name)


def assert_other_outputs(model: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """binary16 and float32 are of the same values as the BF16 bits `wanted`."""
    for dtype in ("f16", "f32"):
        anamnesis.remember(model, folder / f"{dtype}.safetensors", dtype=dtype, threads=1)
    singles, halves = (load_file(folder / f"{name}.safetensors") for name in ("f32", "f16"))
    for name, bits in wanted.items():
        with np.errstate(all="ignore"):
            bf16, f16 = singles[name].astype(ml_dtypes.bfloat16), singles[name].astype(np.float16)
        np.testing.assert_array_equal(bf16.view(np.uint16), bits, name)
        np.testing.assert_array_equal(f16.view(np.uint16), halves[name].view(np.uint16), name)
