"""Limits in the API, in job files and as flags: one meaning, charged before anything is made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import LimitError, UsageError
from anamnesis.limits import OUTPUT_BYTES, SAFETENSORS_HEADER_BYTES, Limits
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job, run_job
from anamnesis.pipeline.plan import Spec, make_plan
from anamnesis.readers.base import FileId, Stored
from anamnesis.readers.model import Model, load_model
from anamnesis.readers.schemes.passthrough import dense

Amn = Callable[..., subprocess.CompletedProcess[str]]

# Each of these is just too low for the fp8_model fixture; `need` is what it needs.
TOO_LOW = {
    "max_items": (9, 10),
    "max_total_bytes": (30_438_535, 30_438_536),
    "max_expansion_ratio": (1, 2),
    "max_single_alloc": (11_999, 12_000),  # 3000 scales of F32
}
OF_PLANS = ("max_total_bytes", "max_expansion_ratio", "max_single_alloc")


def flag(limit: str) -> str:
    return "--" + limit.replace("_", "-")


@pytest.mark.parametrize("limit", TOO_LOW)
def test_one_error_everywhere(fp8_model: Path, tmp_path: Path, amn: Amn, limit: str) -> None:
    have, need = TOO_LOW[limit]
    out = tmp_path / "out.safetensors"
    job = job_from(inputs=[str(fp8_model)], output={"path": str(out)}, limits={limit: have})
    calls: list[Callable[[], object]] = [
        lambda: anamnesis.remember(fp8_model, out, limits=Limits(**{limit: have})),
        lambda: run_job(job),
        lambda: plan_job(job),
    ]
    messages = set()
    for call in calls:
        with pytest.raises(LimitError) as caught:
            call()
        assert (caught.value.limit, caught.value.have) == (limit, have)
        messages.add(str(caught.value))
        if limit != "max_single_alloc":
            assert caught.value.need == need
    assert len(messages) == 1
    message = messages.pop()
    assert f"limits.{limit} allows {have:,}" in message
    assert flag(limit) in message
    done = amn("remember", fp8_model, "-o", out, flag(limit), have)
    assert (done.returncode, done.stderr) == (5, f"error: LimitError: {message}\n")
    assert sorted(tmp_path.iterdir()) == [fp8_model]


@pytest.mark.parametrize("command", ["remember", "convert"])
def test_what_is_just_enough(fp8_model: Path, tmp_path: Path, amn: Amn, command: str) -> None:
    flags: list[object] = []
    for limit, (_, need) in TOO_LOW.items():
        flags += [flag(limit), 10_000 if limit == "max_single_alloc" else need]
    flags[flags.index("--max-single-alloc") + 1] = "1MiB"
    done = amn(command, fp8_model, "-o", tmp_path / "o", "--to", "safetensors", *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["inspect", "parse"])
def test_flags_of_inspect_and_parse(fp8_model: Path, amn: Amn, command: str) -> None:
    for limit, value in (("max_items", 9), ("max_total_bytes", "30MB"), ("max_single_alloc", 9)):
        done = amn(command, fp8_model, flag(limit), value)
        assert done.returncode == 5, (limit, done.stdout)
        assert limit in done.stderr
    done = amn(command, fp8_model, "--json", "--max-items", 12, "--max-expansion-ratio", 2)
    assert json.loads(done.stdout)["tensors"] == 6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--max-items", "0"), "--max-items"),
        (("--max-items", "many"), "--max-items"),
        (("--max-single-alloc", "1 parsec"), "KiB MiB GiB"),
        (("--max-total-bytes", "-1"), "--max-total-bytes"),
        (("--max-expansion-ratio", "1.5"), "--max-expansion-ratio"),
    ],
)
def test_flags_that_cannot_be_meant(
    fp8_model: Path, amn: Amn, arguments: tuple[str, ...], text: str
) -> None:
    done = amn("inspect", fp8_model, *arguments)
    assert done.returncode == UsageError.exit_code
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_limits_only_tighten(tmp_path: Path) -> None:
    """Whatever a caller allows, the fixed floors hold."""
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write((SAFETENSORS_HEADER_BYTES + 1).to_bytes(8, "little") + b"{")
        file.truncate(1 << 30)
    loose = Limits(max_single_alloc=1 << 60, max_items=1 << 60, max_expansion_ratio=1 << 60)
    with pytest.raises(LimitError, match="the fixed limit is") as caught:
        load_model(str(path), limits=loose)
    assert caught.value.have == SAFETENSORS_HEADER_BYTES


def test_an_output_no_disk_holds(tmp_path: Path) -> None:
    """Of 2^60 bytes, 2^34 tasks would be made; none is."""
    file = FileId("in", 1 << 60, 0, 0, 0)
    stored = Stored("w", "F32", (1 << 58,), file, 0, 1 << 60)
    model = Model("in", "safetensors", (file,), {"w": stored}, (dense(stored),))
    loose = Limits(max_total_bytes=1 << 61)
    with pytest.raises(LimitError) as caught:
        make_plan(model, Spec(str(tmp_path / "o")), memory_bytes=1 << 30, threads=1, limits=loose)
    assert (caught.value.limit, caught.value.have) == ("max_total_bytes", OUTPUT_BYTES)


def test_limits_of_lazy_tensors(fp8_model: Path) -> None:
    tensors = anamnesis.open_model(fp8_model, limits=Limits(max_single_alloc=100_000))
    assert tensors["c.weight"].scheme == "fp8-tensor"
    for name, need in (("a.weight", 10_000_000), ("c.weight", 420_000)):
        with pytest.raises(LimitError, match=name) as caught:
            tensors[name].to_numpy()
        assert (caught.value.need, caught.value.have) == (need, 100_000)
    assert tensors["norm.weight"].to_numpy().nbytes == 20_000
    tight = Limits(max_single_alloc=11_999)
    header = Limits(max_single_alloc=20_000)
    assert len(anamnesis.open_model(fp8_model, limits=header)) == 6
    with pytest.raises(LimitError):
        anamnesis.scan(fp8_model, limits=tight)


# --- the other flags


def test_patterns_of_names(fp8_model: Path, tmp_path: Path, amn: Amn) -> None:
    out = tmp_path / "o.safetensors"
    patterns = ("--include", "*.weight", "--include", "ids", "--exclude", "[ab].*")
    done = amn("remember", fp8_model, "-o", out, *patterns)
    assert done.returncode == 0, done.stderr
    assert sorted(anamnesis.open_model(out)) == ["c.weight", "ids", "norm.weight"]
    done = amn("convert", fp8_model, "--to", "safetensors", "-o", tmp_path / "p", "--exclude", "a*")
    assert done.returncode == 0, done.stderr
    assert len(anamnesis.open_model(tmp_path / "p")) == 5


def test_shard_size(fp8_model: Path, tmp_path: Path, amn: Amn) -> None:
    done = amn("remember", fp8_model, "-o", tmp_path / "o", "--max-shard-size", "15MB")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").glob("*.safetensors"))) == 3
    done = amn("remember", fp8_model, "-o", tmp_path / "p", "--max-shard-size", "little")
    assert done.returncode == UsageError.exit_code


def test_quiet(fp8_model: Path, sample: Path, tmp_path: Path, amn: Amn) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"inputs: [{sample}]\noutput: {{path: {tmp_path / 'q.safetensors'}}}\n")
    runs: list[tuple[Any, ...]] = [
        ("remember", fp8_model, "-o", tmp_path / "o"),
        ("convert", sample, "--to", "arrow", "-o", tmp_path / "p"),
        ("run", job),
    ]
    for run in runs:
        done = amn(*run, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = amn(*runs[0], "-q")  # which checks what is there
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = amn(*runs[0], "-q", "--dtype", "f32")
    assert done.returncode == UsageError.exit_code
    assert done.stderr.startswith("error: usage: ")
