"""Common mistakes at the command line, and the way out that their errors name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {"a.weight": ("F32", (2, 8), bytes(64))})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["inspect", "cut.safetensors"], "the file was cut short, as by a download"),
        (["inspect", "cut.gguf"], "the file was cut short, as by a download"),
        (
            ["inspect", "s-00002-of-00002.safetensors"],
            "is one of several of a model: name the",
        ),
        (["inspect", "s-00001-of-00001.safetensors"], "(no configuration names a method)\n"),
        (["inspect", "m/config.json"], "is no weights; name the folder that it lies in"),
        (["remember", "m", "-o", "out.gguf"], "--names stored writes the tensors under the names"),
        (["verify", "nothing"], "no manifest, and nothing is not there; only outputs of this"),
        (["verify", "m"], "m.anamnesis.json: no manifest; only outputs of this program"),
    ],
)
def test_the_way_out(
    amn: Amn,
    model: Path,
    sample: Path,
    write_safetensors: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model.parent / "cut.safetensors").write_bytes(data[:-9])
    (model.parent / "cut.gguf").write_bytes(sample.read_bytes()[:1_000_000])
    for name in ("s-00002-of-00002", "s-00001-of-00001"):  # the weight is elsewhere
        scale = {"a.weight_scale_inv": ("F32", (1, 1), bytes(4))}
        write_safetensors(model.parent / f"{name}.safetensors", scale)
    monkeypatch.chdir(model.parent)
    done = amn(*arguments)
    assert done.returncode in (2, 3, 4)
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
