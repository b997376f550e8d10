"""Names that differ in case alone, where the file system takes them for one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePath

import pytest

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.alike import folds, refuse_alike
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job, run_job
from anamnesis.writers.disk import Disk


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks find names in any case, as those of macOS and Windows do."""

    def exists(self: Disk, path: PurePath) -> bool:
        names = os.listdir(path.parent) if os.path.isdir(path.parent) else []
        return path.name.casefold() in map(str.casefold, names)

    monkeypatch.setattr(Disk, "exists", exists)


def job(tmp_path: Path, *inputs: Path, overwrite: bool = False) -> anamnesis.pipeline.config.Job:
    output = {"path": str(tmp_path / "outs" / "new"), "overwrite": overwrite}
    return job_from(inputs=[str(path) for path in inputs], output=output)


def two_inputs(model: Path, tmp_path: Path) -> list[Path]:
    found = [tmp_path / "a" / "Model", tmp_path / "b" / "model"]
    for folder in found:
        shutil.copytree(model, folder)
    return found


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_inputs_are_refused_by_name(
    model: Path, tmp_path: Path, folding: None, overwrite: bool
) -> None:
    inputs = two_inputs(model, tmp_path)
    for act in (plan_job, run_job):
        with pytest.raises(UsageError, match=r"outs/new: Model and model would both be written"):
            act(job(tmp_path, *inputs, overwrite=overwrite))
    assert not (tmp_path / "outs").exists()


@pytest.mark.parametrize(
    "names", [("readme.md", "README.md"), ("stra\u00dfe.txt", "STRASSE.txt"), ("e\u0301", "\u00e9")]
)
def test_two_companions_are_refused_by_name(
    model: Path, tmp_path: Path, folding: None, names: tuple[str, str]
) -> None:
    for name in names:
        (model / name).write_text(name)
    first, second = sorted(names)
    with pytest.raises(UsageError, match=rf"out: {first} and {second} would both be written"):
        anamnesis.remember(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_companion_never_takes_the_place_of_what_is_written(
    model: Path, tmp_path: Path, folding: None
) -> None:
    (model / "CONFIG.json").write_text("{}")
    with pytest.raises(UsageError, match=r"out: CONFIG.json and config.json would both be"):
        anamnesis.remember(model, tmp_path / "out")


def test_where_names_are_told_apart_both_are_written(model: Path, tmp_path: Path) -> None:
    if folds(tmp_path):
        pytest.skip("this file system takes them for one")
    inputs = two_inputs(model, tmp_path)
    (inputs[0] / "readme.md").write_text("small")
    (inputs[0] / "README.md").write_text("large")
    run_job(job(tmp_path, *inputs))
    new = tmp_path / "outs" / "new"
    assert (new / "Model" / "readme.md").read_text() == "small"
    assert (new / "Model" / "README.md").read_text() == "large"
    assert (new / "model" / "model.safetensors").is_file()


def test_a_file_system_is_known_by_a_name_that_is_there(tmp_path: Path, folding: None) -> None:
    (tmp_path / "Aa").touch()
    assert folds(tmp_path)
    assert folds(tmp_path / "not" / "there")
    refuse_alike([tmp_path / "one", tmp_path / "two", tmp_path / "x" / "one"])


def test_an_empty_disk_is_not_known_by_what_it_is_mounted_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if folds(disk):
        pytest.skip("this file system takes them for one")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == disk)
    assert folds(disk)
    assert folds(disk / "not" / "there")
    (disk / "Aa").touch()
    assert not folds(disk / "not" / "there")
