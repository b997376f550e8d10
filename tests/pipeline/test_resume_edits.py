"""What was edited between two runs of a job is taken up, made again, or refused by name.

Whatever it is, the end is the folder that a run makes which was never stopped, or nothing changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError
from anamnesis.pipeline import task as tasks

Edit = Callable[[Path, Path], None]  # of the input's folder, and of that with finished shards
SETTINGS: dict[str, Any] = {"max_shard_size": 4096}
ANOTHER = "is of another job|exists already, with another output"
CHANGED = "the inputs changed|exists already, with another output"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def flip_shards(model: Path, done: Path) -> None:
    for path in done.glob("model-*"):
        flip(path)


def widen_the_vocabulary(model: Path, done: Path) -> None:
    path = model / "config.json"
    path.write_text(path.read_text().replace("{", '{"vocab_size": 9, ', 1))


def rename_a_tensor(model: Path, done: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"d"'))


def swap_shards(model: Path, done: Path) -> None:
    first, second = sorted(done.glob("model-*"))[:2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def link_a_shard(model: Path, done: Path) -> None:
    shard = min(done.glob("model-*"))
    shard.rename(model.parent / "elsewhere")
    shard.symlink_to(model.parent / "elsewhere")


TAKEN_UP: dict[str, tuple[Edit | None, dict[str, Any]]] = {
    "nothing": (None, {}),
    "a value of each finished shard": (flip_shards, {}),
    "finished shards that change places": (swap_shards, {}),
    "a shard that is gone": (lambda _, done: min(done.glob("model-*")).unlink(), {}),
    "a shard that is cut": (lambda _, done: os.truncate(min(done.glob("model-*")), 100), {}),
    "a shard that is a link": (link_a_shard, {}),
    "a configuration": (widen_the_vocabulary, {}),
    "a new companion": (lambda model, _: (model / "merges.txt").touch(), {}),
    "a companion less": (lambda model, _: (model / "tokenizer.json").unlink(), {}),
    "the place of the manifest": (None, {"manifest": "inside"}),
    "rounding that changes no byte": (None, {"rounding": "reference"}),
}
REFUSED: dict[str, tuple[Edit | None, dict[str, Any], str]] = {
    "weights": (lambda model, _: flip(model / "model.safetensors"), {}, CHANGED),
    "names": (rename_a_tensor, {}, ANOTHER),
    "the precision": (None, {"dtype": "f32"}, ANOTHER),
    "the sizes of shards": (None, {"max_shard_size": 8192}, ANOTHER),
    "the format": (None, {"to": "arrow"}, ANOTHER),
    "which tensors": (None, {"exclude": ["b"]}, ANOTHER),
    "an encoder": (None, {"encode": "mxfp8", "allow_requantize": True}, ANOTHER),
}


@pytest.fixture
def stopped(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Leave a run behind that its last shard stopped, or that was whole; where its shards are."""
    out, run_piece = tmp_path / "out", tasks._run_piece

    def poisoned(piece, *rest):  # type: ignore[no-untyped-def]
        if piece.step.tensor.name == "c.weight":
            raise FormatError("stopped")
        return run_piece(piece, *rest)

    def leave(state: str) -> Path:
        if state == "whole":
            anamnesis.remember(model, out, **SETTINGS)
            return out
        if state == "over an older one":
            anamnesis.remember(model, out, dtype="f16")
        with monkeypatch.context() as patched:
            patched.setattr(tasks, "_run_piece", poisoned)
            with pytest.raises(FormatError, match="stopped"):
                anamnesis.remember(model, out, overwrite=state != "fresh", **SETTINGS)
        done = out if state == "fresh" else tmp_path / ".out.anamnesis-new"
        assert len(list(done.glob("model-*"))) == 2
        return done

    return leave


def undisturbed(model: Path, tmp_path: Path, **settings: Any) -> dict[str, bytes]:
    """What a run leaves that begins with nothing, in the place of the one that was stopped."""
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out.anamnesis.json").unlink(missing_ok=True)
    anamnesis.remember(model, tmp_path / "out", **settings)
    return beside(tmp_path)


def beside(tmp_path: Path) -> dict[str, bytes]:
    files = contents(tmp_path)
    return {name: data for name, data in files.items() if not name.startswith(("model/", "else"))}


@pytest.mark.parametrize("state", ["fresh", "over an older one", "whole"])
@pytest.mark.parametrize("edited", TAKEN_UP)
def test_what_changes_no_weight_is_taken_up(
    model: Path, tmp_path: Path, stopped: Callable[[str], Path], state: str, edited: str
) -> None:
    edit, more = TAKEN_UP[edited]
    done, settings = stopped(state), {**SETTINGS, **more}
    if edit:
        edit(model, done)
    anamnesis.remember(model, tmp_path / "out", overwrite=done != tmp_path / "out", **settings)
    assert anamnesis.verify(tmp_path / "out")["files"] == 3
    found = beside(tmp_path)
    assert found == undisturbed(model, tmp_path, **settings)


@pytest.mark.parametrize("state", ["fresh", "over an older one", "whole"])
@pytest.mark.parametrize("edited", REFUSED)
def test_what_changes_weights_is_refused_or_starts_again(
    model: Path, tmp_path: Path, stopped: Callable[[str], Path], state: str, edited: str
) -> None:
    edit, more, error = REFUSED[edited]
    done, settings = stopped(state), {**SETTINGS, **more}
    if edit:
        edit(model, done)
    before = beside(tmp_path)
    with pytest.raises(AnamnesisError, match=error):
        anamnesis.remember(model, tmp_path / "out", **settings)
    assert {name: beside(tmp_path).get(name) for name in before} == before
    anamnesis.remember(model, tmp_path / "out", overwrite=True, **settings)
    assert beside(tmp_path) == undisturbed(model, tmp_path, **settings)
