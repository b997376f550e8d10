"""An output folder is empty, or this program's own: nothing is mixed, eaten, or misleading."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from part_files import files as names

import anamnesis
from anamnesis.errors import IntegrityError, UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import rehearse_job, run_job
from anamnesis.writers import exchange

Amn = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


SHARDS = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
SHARDED = ["config.json", *SHARDS, "model.safetensors.index.json", "tokenizer.json"]


@pytest.mark.parametrize("to", ["safetensors", "arrow"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "README.md", ".git", "sub/x", "part-0.arrow"]
)
def test_a_folder_in_use_is_refused_by_name(
    model: Path, tmp_path: Path, name: str, overwrite: bool, to: str
) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=rf"out: is in use: {name.split('/')[0]} is not of"):
        anamnesis.remember(model, out, to=to, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_dry_run_says_what_is_in_the_way(
    model: Path, tmp_path: Path, amn: Amn, flags: list[str]
) -> None:
    out = tmp_path / "out"
    dry = ("remember", model, "-o", out, "--dry-run", *flags)
    assert amn(*dry).returncode == 0
    assert not out.exists()
    anamnesis.remember(model, out)
    assert amn(*dry).returncode == 0
    (out / "pytorch_model.bin").write_text("mine")
    before = contents(tmp_path)
    found = amn(*dry)
    assert "out: is in use: pytorch_model.bin is not of" in found.stderr
    assert contents(tmp_path) == before
    real = amn("remember", model, "-o", out, *flags)
    assert (found.returncode, found.stderr) == (real.returncode, real.stderr)


def test_another_output_in_the_folder_is_refused_without_overwrite(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out)
    before = contents(out)
    with pytest.raises(UsageError, match="exists already, with another output; pass --overwrite"):
        anamnesis.remember(model, out, max_shard_size=4096)
    assert contents(out) == before


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [({}, {"max_shard_size": 4096}), ({"max_shard_size": 4096}, {}), ({"to": "arrow"}, {})],
)
def test_overwrite_replaces_all_of_the_old(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
    after: dict[str, Any],
    atomic: bool,
) -> None:
    if not atomic:
        monkeypatch.setattr(exchange, "swapped", lambda new, old: False)
    out = tmp_path / "out"
    anamnesis.remember(model, out, **before)
    outcome = anamnesis.remember(model, out, overwrite=True, **after)
    assert all(Path(path).is_file() for path in outcome.files)
    assert names(out) == (
        SHARDED if after else ["config.json", "model.safetensors", "tokenizer.json"]
    )
    assert names(tmp_path) == ["model", "out", "out.anamnesis.json"]
    assert anamnesis.verify(out)["tensors"] == 3
    anamnesis.remember(model, tmp_path / "fresh", **after)
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_strangers_file_in_an_own_folder_is_never_removed(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt is not of an output"):
        anamnesis.remember(model, out, dtype="f32", overwrite=True)
    assert anamnesis.remember(model, out).resumed == 1  # nothing is written but what was
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_of_a_stopped_run_is_cleared_for_another(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out, max_shard_size=4096)
    # As a kill before the manifest leaves it: all files, and the journal.
    manifest = tmp_path / "out.anamnesis.json"
    document = json.loads(manifest.read_text())
    manifest.unlink()
    from anamnesis.pipeline.journal import Journal, Recipe

    journal = Journal(out, Recipe(*document["recipe"]))
    journal.add({name: [] for name, _ in document["files"]})
    journal.add({name: [] for name in document["others"]})
    anamnesis.remember(model, out, overwrite=True)
    assert names(out) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert names(tmp_path) == ["model", "out", "out.anamnesis.json"]


@pytest.mark.parametrize("to", ["safetensors", "arrow"])
def test_verify_names_foreign_weights(model: Path, tmp_path: Path, to: str, amn: Amn) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out, to=to, max_shard_size=4096)
    (out / "notes.txt").write_text("harmless")
    assert anamnesis.verify(out)["files"] == 3
    foreign = "model.safetensors" if to == "safetensors" else "part-9.arrow"
    (out / foreign).write_bytes(b"older")
    with pytest.raises(IntegrityError, match=f"holds {foreign}, which the manifest does not list"):
        anamnesis.verify(out)
    assert amn("verify", out).returncode == 7
    with pytest.raises(UsageError, match=f"{foreign} is not of an output"):
        anamnesis.remember(model, out, to=to, max_shard_size=4096)


def test_an_index_counts_as_weights(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out)
    (out / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"index\.json"):
        anamnesis.verify(out)


PLACES = ["model", "model/", "link", "model/out", "link/out", ".", "model/x/y"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_never_meets_the_input(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("model")
    before = contents(tmp_path)
    for source in ("model", "link", str(model)):
        with pytest.raises(UsageError, match="the input"):
            anamnesis.remember(source, place, overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", [".", "./", "../new", "../new/sub/.."])
def test_an_output_may_be_the_current_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    monkeypatch.chdir(folder)
    anamnesis.remember(model, place)
    assert anamnesis.verify(place)["tensors"] == 3
    assert names(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (tmp_path / "new.anamnesis.json").is_file()


@pytest.mark.parametrize("place", ["/", "//", "/.."])
def test_the_root_is_no_output(model: Path, place: str) -> None:
    with pytest.raises(UsageError, match="is the root of the file system"):
        anamnesis.remember(model, place)
    with pytest.raises(UsageError, match="is the root of the file system"):
        anamnesis.verify(place)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_never_hides_the_model_of_an_index(
    model: Path, tmp_path: Path, overwrite: bool
) -> None:
    sharded = tmp_path / "sharded"
    anamnesis.remember(model, sharded, max_shard_size=4096)
    before = contents(tmp_path)
    for source in (sharded, sharded / "model.safetensors.index.json", model):
        with pytest.raises(UsageError, match="would be loaded in place of the model"):
            anamnesis.remember(source, sharded / "model.safetensors", overwrite=overwrite)
        assert contents(tmp_path) == before


def test_a_file_may_lie_beside_the_inputs(model: Path) -> None:
    before = contents(model)
    anamnesis.remember(model, model / "out.safetensors")
    after = contents(model)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"out.safetensors", "out.safetensors.anamnesis.json"}


def test_a_file_never_joins_the_model_of_a_folder(
    model: Path, tmp_path: Path, write_safetensors: Write
) -> None:
    """What a loader would read with it, or instead of it, whatever the input was."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    entries: dict[str, Any] = {"x": ("BF16", (4,), bytes(8))}
    write_safetensors(other / "weights-1.safetensors", entries)
    for name in ("weights-2.safetensors", "model.safetensors"):
        with pytest.raises(UsageError, match="with, or in place of, the model that is in"):
            anamnesis.remember(model, other / name)
    (other / "weights-1.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"the model that is in .* \(pytorch_model.bin\)"):
        anamnesis.remember(model, other / "w.safetensors")
    assert names(other) == ["config.json", "pytorch_model.bin"]


def test_a_file_may_lie_beside_files_that_are_no_model_together(
    model: Path, tmp_path: Path
) -> None:
    """A folder without a configuration, of models in one file each, and not the input itself."""
    flat = tmp_path / "flat"
    for name in ("a.safetensors", "b.safetensors"):
        anamnesis.remember(model / "model.safetensors", flat / name)
    assert anamnesis.verify(flat / "b.safetensors")["tensors"] == 3
    (flat / "b.safetensors").unlink()
    with pytest.raises(UsageError, match="in place of"):
        anamnesis.remember(flat, flat / "c.safetensors")
    anamnesis.remember(flat / "a.safetensors", flat / "c.safetensors")


def test_a_dry_run_refuses_the_file_that_a_run_refuses(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    job = job_from(inputs=[str(model)], output={"path": str(out)})
    again = job_from(inputs=[str(model)], output={"path": str(out), "overwrite": True})
    out.write_bytes(b"a file of somebody's")
    for call in (rehearse_job, run_job):
        with pytest.raises(UsageError, match="exists already; pass --overwrite"):
            call(job)
    rehearse_job(again)
    assert out.read_bytes() == b"a file of somebody's"
    run_job(again)
    rehearse_job(job)  # which would check that it is whole, and keep it
    out.unlink()
    out.mkdir()
    for call in (rehearse_job, run_job):
        with pytest.raises(UsageError, match="is a folder"):
            call(again)


def test_an_output_never_meets_another_input_of_the_job(model: Path, tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to("model")
    job = job_from(inputs=[str(model), str(tmp_path / "b")], output={"path": str(tmp_path / "b")})
    with pytest.raises(UsageError, match="the input"):
        run_job(job)


def test_a_folder_found_by_its_index_is_an_input_too(model: Path, tmp_path: Path) -> None:
    index = {"weight_map": dict.fromkeys(("a", "b", "c.weight"), "model.safetensors")}
    index["weight_map"]["c.weight_scale"] = "model.safetensors"
    path = model / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(UsageError, match="lies in the input"):
        anamnesis.remember(path, model / "out")


def test_a_folder_that_holds_the_input_file_is_in_use(model: Path) -> None:
    before = contents(model)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is in use"):
            anamnesis.remember(model / "model.safetensors", model, to="arrow", overwrite=overwrite)
    anamnesis.remember(model / "model.safetensors", model / "beside.safetensors")  # a file may
    (model / "beside.safetensors").unlink()
    (model / "beside.safetensors.anamnesis.json").unlink()
    assert contents(model) == before


def test_a_hard_link_to_an_input_is_refused(model: Path, tmp_path: Path) -> None:
    os.link(model / "model.safetensors", tmp_path / "o.safetensors")
    with pytest.raises(UsageError, match="is the input"):
        anamnesis.remember(model, tmp_path / "o.safetensors", overwrite=True)


def test_a_companion_that_is_linked_to_the_inputs_leaves_it_alone(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    anamnesis.remember(model, out)
    for link in (os.link, os.symlink):
        (out / "config.json").unlink()
        link(model / "config.json", out / "config.json")
        anamnesis.remember(model, out, dtype="f32", overwrite=True)
        assert "quantization_config" in (model / "config.json").read_text()
        assert "quantization_config" not in (out / "config.json").read_text()
        anamnesis.remember(model, out, overwrite=True)


def test_an_output_that_is_a_link_is_replaced_where_it_leads(model: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    anamnesis.remember(model, tmp_path / "out")
    anamnesis.remember(model, tmp_path / "out", max_shard_size=4096, overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "disk") == SHARDED
    assert names(tmp_path) == ["disk", "model", "out", "out.anamnesis.json"]
