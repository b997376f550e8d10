"""A path to nothing, or to a folder without weights, is answered with what may be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.readers.find import find_files
from anamnesis.readers.model import load_model


@pytest.mark.parametrize("given", ["Model.gguf", "model.ggfu", "model"])
def test_a_misspelt_path_names_the_nearest(given: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"; did you mean '\S+/model\.gguf'\?"):
        find_files(f"{tmp_path}/{given}", Limits())


@pytest.mark.parametrize("given", ["weights.gguf", "no/model.gguf"])
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
