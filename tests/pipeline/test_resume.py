"""A job that was killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slow_writes import SLOW

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.pipeline import task as tasks
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job
from anamnesis.pipeline.progress import make_progress
from anamnesis.writers.lock import OutputLock

Job = Callable[..., anamnesis.pipeline.config.Job]


@pytest.fixture
def job(fp8_model: Path, tmp_path: Path) -> Job:
    def make(name: str = "out", **output: object) -> anamnesis.pipeline.config.Job:
        settings = {"path": str(tmp_path / name), "max_shard_size": "8MB", **output}
        return job_from(inputs=[str(fp8_model)], output=settings, run={"executor": "serial"})

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob(".*"))


def test_a_finished_job_is_verified_and_kept(job: Job, tmp_path: Path) -> None:
    first = run_job(job(), resume=True).outcomes[0]
    assert (first.resumed, len(first.files)) == (0, 3)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    report = io.StringIO()
    again = run_job(job(), resume=True, progress=make_progress("plain", report)).outcomes[0]
    assert (again.resumed, again.out_bytes) == (3, 0)
    assert report.getvalue().count("there already") == 3
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.safetensors")}
    assert after.items() <= before.items()
    assert hidden(tmp_path) == []


def test_a_damaged_shard_is_made_again_alone(job: Job, tmp_path: Path) -> None:
    run_job(job())
    whole = contents(tmp_path / "out")
    shard = tmp_path / "out" / "model-00002-of-00003.safetensors"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 0x10
    shard.write_bytes(data)
    outcome = run_job(job(), resume=True).outcomes[0]
    assert outcome.resumed == 2
    assert contents(tmp_path / "out") == whole


def test_one_failed_shard_stops_no_other(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(job("whole"))
    run_piece = tasks._run_piece

    def poisoned(piece, *rest):  # type: ignore[no-untyped-def]
        if piece.step.tensor.name == "a.weight":
            raise FormatError("a.weight: poison")
        return run_piece(piece, *rest)

    monkeypatch.setattr(tasks, "_run_piece", poisoned)
    with pytest.raises(FormatError, match="poison"):
        run_job(job())
    there = contents(tmp_path / "out")
    assert len(there) == 2
    monkeypatch.setattr(tasks, "_run_piece", run_piece)
    outcome = run_job(job(), resume=True).outcomes[0]
    assert outcome.resumed == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("shards_done", [1, 2])
def test_killed_and_run_again(
    fp8_model: Path,
    tmp_path: Path,
    amn: Callable[..., subprocess.CompletedProcess[str]],
    shards_done: int,
) -> None:
    out = tmp_path / "out"
    path = tmp_path / "job.yaml"
    path.write_text(
        f"inputs: [{fp8_model}]\noutput: {{path: {out}, max_shard_size: 8MB}}\n"
        "run: {threads: 1}\n"
    )
    child = subprocess.Popen([sys.executable, "-c", SLOW, "run", str(path)], stderr=subprocess.PIPE)
    while not (out.is_dir() and len(list(out.glob("model-*"))) >= shards_done):
        assert child.poll() is None, child.stderr
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert list(out.glob(".*.part"))
    finished = {p: p.stat().st_ino for p in out.glob("model-*")}
    done = amn("run", path)
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    kept = [p for p, inode in finished.items() if p.stat().st_ino == inode]
    assert len(kept) >= shards_done - 1
    assert hidden(tmp_path) == []
    anamnesis.remember(fp8_model, tmp_path / "whole", max_shard_size="8MB")
    assert contents(out) == contents(tmp_path / "whole")
    assert anamnesis.verify(out)["files"] == 3


def interrupted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a journal: the last shard fails."""
    run_piece = tasks._run_piece

    def poisoned(piece, *rest):  # type: ignore[no-untyped-def]
        if piece.step.tensor.name == "norm.weight":
            raise FormatError("stopped")
        return run_piece(piece, *rest)

    monkeypatch.setattr(tasks, "_run_piece", poisoned)
    with pytest.raises(FormatError, match="stopped"):
        run_job(job())
    monkeypatch.setattr(tasks, "_run_piece", run_piece)


def test_changed_inputs_are_noticed(
    job: Job, fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(job, monkeypatch)
    os.utime(fp8_model, ns=(1, 1))
    with pytest.raises(IntegrityError, match="inputs changed"):
        run_job(job(), resume=True)


def test_another_jobs_journal_is_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(job, monkeypatch)
    with pytest.raises(UsageError, match="another job"):
        run_job(job(dtype="f32"), resume=True)


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty"])
def test_a_damaged_journal_is_never_trusted(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    interrupted(job, monkeypatch)
    (journal,) = tmp_path.glob(".*.journal")
    data = journal.read_bytes()
    flipped = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    damaged = {"cut": data[:-30], "flip": flipped, "garbage": b"\xff\0{]" * 9, "empty": b""}
    journal.write_bytes(damaged[damage])
    # The shards that the journal no longer vouches for are in the way, and not ours to replace.
    with pytest.raises(UsageError, match="exists already"):
        run_job(job(), resume=True)
    run_job(job(overwrite=True), resume=True)
    assert anamnesis.verify(tmp_path / "out")["files"] == 3


def test_one_run_an_output_at_a_time(job: Job, tmp_path: Path) -> None:
    with OutputLock(tmp_path / "out"), pytest.raises(UsageError, match="another run"):
        run_job(job())
    run_job(job())
    assert hidden(tmp_path) == []
