"""Outputs beside which files go missing, or come in, that their manifest knows nothing of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import IntegrityError, UsageError


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    values = np.arange(64, dtype=np.float32).tobytes()
    folder = tmp_path / "model"
    folder.mkdir()
    entries = {"a": ("F32", (8, 8), values), "b": ("F32", (64,), values)}
    write_safetensors(folder / "model.safetensors", entries)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_verify_names_listed_files_that_are_gone(model: Path, tmp_path: Path, place: str) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out, max_shard_size=300, manifest=place)  # type: ignore[arg-type]
    assert anamnesis.verify(out)["files"] == 2
    (out / "config.json").unlink()
    with pytest.raises(IntegrityError, match=r"config\.json is missing, which the manifest lists"):
        anamnesis.verify(out)
    (out / "model.safetensors.index.json").unlink()
    with pytest.raises(IntegrityError, match="are missing, which the manifest lists"):
        anamnesis.verify(out)
    anamnesis.remember(model, out, max_shard_size=300, manifest=place)  # type: ignore[arg-type]
    assert anamnesis.verify(out)["files"] == 2


@pytest.mark.parametrize("place", ["beside", "inside"])
@pytest.mark.parametrize("name", ["extra.safetensors", "extra.arrow"])
def test_no_weights_are_added_to_an_output(
    model: Path, tmp_path: Path, place: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model / "model.safetensors", out, manifest=place)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="out is an output of this program, and would hold"):
        anamnesis.remember(model, out / name)
    assert anamnesis.verify(out)["files"] == 1
    anamnesis.remember(model, tmp_path / name)  # beside it
    monkeypatch.chdir(out)
    with pytest.raises(UsageError, match="is an output of this program, and would hold"):
        anamnesis.remember(model, name)
    monkeypatch.chdir(tmp_path)
    anamnesis.remember(model, name)


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".arrow"])
def test_names_that_leave_no_room_for_ours(model: Path, tmp_path: Path, suffix: str) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    fits = "n" * (most - 36 - len(suffix)) + suffix
    anamnesis.remember(model, tmp_path / fits)
    anamnesis.remember(model, tmp_path / fits, dtype="f16", passthrough="f16", overwrite=True)
    assert anamnesis.verify(tmp_path / fits)["tensors"] == 2
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError, match=f"name has {most - 35} bytes; allowed: {most - 36}, "):
        anamnesis.remember(model, tmp_path / f"n{fits}")
    assert sorted(os.listdir(tmp_path)) == before
