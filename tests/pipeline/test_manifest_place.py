"""Where the manifest of a folder or a file lies, and until when."""

from __future__ import annotations

from pathlib import Path

import pytest
from part_files import files as names

import anamnesis
from anamnesis.errors import IntegrityError, UsageError


def test_a_folder_with_its_manifest_inside_can_be_moved(model: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "elsewhere"
    anamnesis.remember(model, out, manifest="inside", max_shard_size=4096)
    assert names(tmp_path) == ["model", "out"]
    assert len(names(out)) == 7
    assert "_anamnesis.json" in names(out)
    out.rename(moved)
    assert anamnesis.verify(moved)["files"] == 3
    assert anamnesis.remember(model, moved, manifest="inside", max_shard_size=4096).resumed == 3
    anamnesis.remember(model, moved, manifest="inside", overwrite=True)
    assert names(moved) == ["_anamnesis.json", "config.json", "model.safetensors", "tokenizer.json"]
    assert names(tmp_path) == ["elsewhere", "model"]
    anamnesis.remember(moved, tmp_path / "again", dtype="f32")
    assert "_anamnesis.json" not in names(tmp_path / "again")


@pytest.mark.parametrize("before", ["beside", "inside"])
def test_there_is_one_manifest_whatever_was_there(model: Path, tmp_path: Path, before: str) -> None:
    out = tmp_path / "out"
    after = {"beside": "inside", "inside": "beside"}[before]
    anamnesis.remember(model, out, manifest=before)
    anamnesis.remember(model, out, manifest=after, overwrite=True)
    there = [(out / "_anamnesis.json").exists(), (tmp_path / "out.anamnesis.json").exists()]
    assert there == [after == "inside", after == "beside"]
    assert anamnesis.verify(out)["tensors"] == 3


def test_a_dataset_in_arrow_does_not_see_its_manifest(model: Path, tmp_path: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    anamnesis.remember(model, tmp_path / "out", to="arrow", manifest="inside", max_shard_size=4096)
    found = dataset.dataset(tmp_path / "out", format="arrow")
    assert len(found.files) == 3
    assert len(anamnesis.open_model(tmp_path / "out")) == 3


def test_inside_is_for_folders(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"output\.manifest: inside is for folders"):
        anamnesis.remember(model, tmp_path / "o.safetensors", manifest="inside")


def test_a_file_keeps_its_manifest_until_it_is_replaced(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.safetensors"
    anamnesis.remember(model, out)
    from anamnesis.pipeline import task as tasks

    def poisoned(*rest: object) -> None:
        raise IntegrityError("poison")

    monkeypatch.setattr(tasks, "_run_piece", poisoned)
    with pytest.raises(IntegrityError, match="poison"):
        anamnesis.remember(model, out, dtype="f32", overwrite=True)
    assert anamnesis.verify(out)["tensors"] == 3
