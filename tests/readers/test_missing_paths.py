"""A path to nothing, or to a folder without weights, is answered with what may be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.readers.find import find_files
from anamnesis.readers.model import load_model


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("Model.gguf", "model.gguf"),
        ("MODEL.GGUF", "model.gguf"),
        ("model.ggfu", "model.gguf"),
        ("model", "model.gguf"),
        ("qunats/q4/a.gguf", "quants/q4/a.gguf"),
        ("quants/Q4/", "quants/q4"),
    ],
)
def test_a_misspelt_path_names_the_nearest(given: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "quants" / "q4").mkdir(parents=True)
    for name in ("model.gguf", "quants/q4/a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=rf"; did you mean '\S+/{meant}'\?"):
        find_files(f"{tmp_path}/{given}", Limits())


def test_a_misspelt_folder_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"; did you mean 'models/a\.gguf'\?"):
        find_files("modles/a.gguf", Limits())
    with pytest.raises(FileNotFoundError, match="is hf://owner/model"):
        find_files("owner/model", Limits())


@pytest.mark.parametrize("given", ["weights.gguf", "no/model.gguf", "Model.gguf/x"])
def test_nothing_near_is_not_guessed_at(given: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"] No such file or directory: '"):
        load_model(f"{tmp_path}/{given}")


@pytest.mark.parametrize(
    "name", ["model.safetensors.incomplete", ".cache/huggingface/download/a.1f.incomplete"]
)
def test_downloads_that_did_not_end_are_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    (tmp_path / "config.json").touch()
    with pytest.raises(FormatError, match=rf"; downloads that did not end: {name}$"):
        find_files(str(tmp_path), Limits())


def test_an_empty_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no weights found, the folder is empty$"):
        find_files(str(tmp_path), Limits())
