"""One job of several models: a folder for each, and a failure that stops no other."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import FormatError, UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job

Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def models(tmp_path: Path, write_safetensors: Callable[[Path, Mapping[str, Any]], Path]) -> Path:
    """Two folders, a file, and one that is broken."""
    for number, name in enumerate(["m-one", "m-two"]):
        folder = tmp_path / name
        folder.mkdir()
        codes = bytes([0x30 + number]) * 4096
        tensors = {
            "w.weight": ("F8_E4M3", (32, 128), codes),
            "w.weight_scale": ("F32", (), b"\0\0\x80?"),
            "norm.bias": ("BF16", (128,), bytes(256)),
        }
        write_safetensors(folder / "model.safetensors", tensors)
        (folder / "config.json").write_text(f'{{"n": {number}}}')
    write_safetensors(tmp_path / "lone.safetensors", {"x": ("F16", (2,), b"\0\x3c\0\x40")})
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 99)
    return tmp_path


def below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def job(models: Path, *inputs: str, **sections: Any) -> Any:
    output = {"path": str(models / "out")}
    return job_from(inputs=[str(models / i) for i in inputs], output=output, **sections)


def test_each_input_has_a_folder_of_its_own(models: Path, amn: Amn) -> None:
    path = models / "job.yaml"
    path.write_text(
        f"inputs: ['{models}/m-*', {models}/bad.safetensors, {models}/lone.safetensors, nowhere]\n"
        f"output: {{path: {models}/out}}\n"
    )
    done = amn("run", path)
    assert done.returncode == 5
    lines = done.stderr.splitlines()
    assert lines[-3].startswith(f"failed: {models}/bad.safetensors: LimitError: ")
    assert lines[-2] == "failed: nowhere: FileNotFoundError: nowhere: No such file or directory"
    assert lines[-1].startswith("error: LimitError: 2 of 5 inputs failed, the first: ")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"{models}/out/{name}" for name in ("m-one", "m-two", "lone")
    ]
    written = below(models / "out")
    assert written == [
        "lone.anamnesis.json",
        "lone/model.safetensors",
        "m-one.anamnesis.json",
        "m-one/config.json",
        "m-one/model.safetensors",
        "m-two.anamnesis.json",
        "m-two/config.json",
        "m-two/model.safetensors",
    ]
    values = [
        anamnesis.open_model(models / "out" / name)["w.weight"].to_numpy().tobytes()
        for name in ("m-one", "m-two")
    ]
    assert values[0] != values[1]
    again = amn("run", path, "--dry-run")
    assert again.returncode == 5
    assert again.stdout.count("input    ") == 3
    assert again.stderr.count("failed: ") == 2
    # Run again with what was broken repaired: the others are checked and kept.
    (models / "bad.safetensors").write_bytes((models / "lone.safetensors").read_bytes())
    path.write_text(path.read_text().replace(", nowhere", ""))
    done = amn("run", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all done before") == 3


def test_patterns_select_the_tensors_of_every_input(models: Path) -> None:
    select = {"include": ["*.weight", "*.bias"], "exclude": ["norm.*"]}
    summary = run_job(job(models, "m-*", select=select))
    assert [o.tensors for o in summary.outcomes] == [1, 1]
    for name in ("m-one", "m-two"):
        assert list(anamnesis.open_model(models / "out" / name)) == ["w.weight"]


@pytest.mark.parametrize(
    "inputs", [("m-one", "m-one"), ("m-*", "m-two"), ("m-one", "../{here}/m-one")]
)
def test_two_inputs_of_one_name_are_refused(models: Path, inputs: tuple[str, ...]) -> None:
    named = [i.format(here=models.name) for i in inputs]
    with pytest.raises(UsageError, match=r"two of them would be written to .*/out/m-"):
        run_job(job(models, *named))
    assert not (models / "out").exists()


def test_several_inputs_need_a_folder(models: Path) -> None:
    output = {"path": str(models / "out.safetensors")}
    inputs = [str(models / "m-one"), str(models / "m-two")]
    with pytest.raises(UsageError, match="several inputs need a folder"):
        run_job(job_from(inputs=inputs, output=output))


def test_python_hears_of_a_failure_too(models: Path) -> None:
    (models / "bad.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="the file is empty"):
        anamnesis.run(job(models, "bad.safetensors", "m-one"))
    assert anamnesis.verify(models / "out" / "m-one")["files"] == 1
