"""Names in an index that mean a file of the folder in another spelling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import anamnesis
from anamnesis.errors import SecurityError

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    write_safetensors(folder / "a.safetensors", {"a": ("F32", (2,), bytes(8))})
    write_safetensors(folder / "sub" / "b.safetensors", {"b": ("F32", (2,), bytes(8))})
    return folder


def index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", ["./a.safetensors", "././a.safetensors"])
@pytest.mark.parametrize("other", ["sub/b.safetensors", "sub/./b.safetensors"])
def test_dots_that_go_nowhere(folder: Path, name: str, other: str) -> None:
    index(folder, {"a": name, "b": other})
    assert sorted(anamnesis.open_model(folder)) == ["a", "b"]
    assert not anamnesis.inspect(folder).notes


def test_two_spellings_are_one_file(folder: Path) -> None:
    index(folder, {"a": "a.safetensors", "c": "./a.safetensors"})
    found = anamnesis.inspect(folder)
    assert found.tensors == 1
    assert "lists tensors that no file has: c" in " ".join(found.notes)


@pytest.mark.parametrize(
    "name", ["/a.safetensors", ".//a.safetensors", "//a.safetensors", "../model/a.safetensors",
             "sub/../a.safetensors", "./../model/a.safetensors", ".", "./", "a.safetensors\0"]
)  # fmt: skip
def test_what_leaves_the_folder_stays_refused(folder: Path, name: str) -> None:
    index(folder, {"a": name})
    with pytest.raises(SecurityError, match="not the name of a file in this folder"):
        anamnesis.open_model(folder)
