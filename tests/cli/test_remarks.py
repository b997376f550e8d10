"""Many notes of one kind are one line for people, and whole where programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.cli.streams import remark
from anamnesis.pipeline.remarks import collapsed


def test_notes_of_a_kind_are_one_line() -> None:
    many = [f"left out 'blk.{n}.x': U{n} is not converted" for n in range(200)]
    many += [f"/models/a/shard-{n}.safetensors: 3 MB are not what its index says" for n in range(9)]
    few = [f"{n} files are not read" for n in range(3)]
    found = collapsed([*many, "alone", *few])
    assert found == [
        f"{many[0]} (and 199 more of this kind; --json has all)",
        f"{many[200]} (and 8 more of this kind; --json has all)",
        "alone",
        *few,
    ]
    assert collapsed([]) == []
    assert collapsed(["a is b", "b is a", "a is c", "c is a"]) == [
        "a is b",
        "b is a",
        "a is c",
        "c is a",
    ]


def test_remarks_are_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    remark([f"tensor 'w.{n}' is odd" for n in range(50)])
    assert capsys.readouterr().err == (
        "note: tensor 'w.0' is odd (and 49 more of this kind; --json has all)\n"
    )


@pytest.fixture
def noted(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """An archive with twenty members that are no arrays."""
    import zipfile

    import numpy as np

    path = tmp_path / "m.npz"
    np.savez(path, w=np.ones((2, 2), np.float32))
    with zipfile.ZipFile(path, "a") as archive:
        for n in range(20):
            archive.writestr(f"note-{n}.txt", "text")
    return path


def test_programs_get_them_all(amn: Callable[..., Any], noted: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    done = amn("remember", noted, "-o", out)
    lines = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].endswith("(and 19 more of this kind; --json has all)")
    dry = amn("remember", noted, "-o", tmp_path / "p.safetensors", "--dry-run")
    assert dry.stdout.count("is no array") == 1
    (tmp_path / "o.safetensors").unlink()
    made = json.loads(amn("remember", noted, "-o", out, "--json", "--overwrite").stdout)
    assert len(made["notes"]) == len(made["outcomes"][0]["notes"]) == 20
    plans = json.loads(
        amn("remember", noted, "-o", out, "--json", "--dry-run", "--overwrite").stdout
    )
    assert len(plans["notes"]) == len(plans["plans"][0]["notes"]) == 20
    manifest = json.loads((tmp_path / "o.safetensors.anamnesis.json").read_text())
    assert manifest["notes"] == made["notes"]
    assert anamnesis.verify(out)["tensors"] == 1
    assert len(anamnesis.remember(noted, tmp_path / "q.safetensors").notes) == 20


def test_inputs_are_counted(amn: Callable[..., Any], sample: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.gguf").write_bytes(sample.read_bytes())
    job = tmp_path / "job.yaml"
    models = [f"{tmp_path}/{name}.gguf" for name in "abc"]
    job.write_text(f"inputs: {models}\noutput: {{path: '{tmp_path}/out'}}\n")
    done = amn("run", job)
    for number, name in enumerate("abc", 1):
        assert f"input {number} of 3: {tmp_path}/{name}.gguf\n" in done.stderr
    assert "input" not in amn("run", job, "-q").stderr
    alone = amn("remember", tmp_path / "a.gguf", "-o", tmp_path / "one.arrow")
    assert "input 1 of" not in alone.stderr
    assert done.stderr.count("names are those of the GGUF") == 3


def test_a_pattern_is_one_model(amn: Callable[..., Any], sample: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(sample.read_bytes())
    done = amn("inspect", f"{tmp_path}/*.gguf")
    assert done.returncode == 3
    assert "are parts of one model: name several models one by one" in done.stderr
