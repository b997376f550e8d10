"""`run.staging`: files made on a disk before they are sent, within what was planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import files_in_memory

import anamnesis
from anamnesis.errors import LimitError, UsageError
from anamnesis.limits import MiB
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job
from anamnesis.pipeline.plan import Plan

WriteSafetensors = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path, write_safetensors: WriteSafetensors) -> Path:
    """Six tensors of 2 MiB in BF16, noise."""
    rng = np.random.default_rng(4)
    noise = [rng.integers(0, 1 << 16, (1024, 1024), np.uint16).tobytes() for _ in range(6)]
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {f"w{n}": ("BF16", (1024, 1024), data) for n, data in enumerate(noise)})
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("to", ["safetensors", "arrow", "parquet"])
def test_what_is_staged_is_what_is_sent(memory: Any, model: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "stage").mkdir()
    shards = {"to": to, "max_shard_size": "4.2MB"}
    anamnesis.convert(model, tmp_path / "out", **shards)
    anamnesis.convert(model, "memory://out", staging=tmp_path / "stage", **shards)
    local = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert files_in_memory("/out/") == local
    assert not [name for name in memory.store if name.startswith("/.") or "/.p" in name]
    assert names(tmp_path / "stage") == []
    assert anamnesis.verify("memory://out")["tensors"] == 6


def test_it_is_planned_and_refused(memory: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()

    def job(disk: object, **more: object) -> Any:
        run = {"staging": tmp_path / "stage", "threads": 1, "disk": disk}
        output = {"path": "memory://out", "max_shard_size": "4.2MB", **more}
        return job_from(inputs=[model], output=output, run=run)

    ((_, plan),) = plan_job(job(None))
    assert isinstance(plan, Plan)
    sizes = [file.nbytes for file in plan.layout.files]
    assert len(sizes) == 3
    assert plan.disk_bytes == sum(sorted(sizes)[-2:])  # of a thread's task, and the one begun
    with pytest.raises(LimitError, match=r"run\.disk"):
        anamnesis.run(job(plan.disk_bytes - 1))
    anamnesis.run(job(plan.disk_bytes))
    with pytest.raises(LimitError, match=r"a new folder beside"):  # all of it before the old goes
        anamnesis.run(job(plan.disk_bytes, overwrite=True))
    assert names(tmp_path / "stage") == []


def test_what_it_is_not_for(memory: Any, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no such folder"):
        anamnesis.convert(model, "memory://out", to="safetensors", staging=tmp_path / "absent")
    with pytest.raises(UsageError, match="executor distributed"):
        anamnesis.convert(
            model, "memory://out", to="safetensors", staging=tmp_path, executor="distributed"
        )
    outcome = anamnesis.convert(model, tmp_path / "out", to="hf", staging=tmp_path)
    assert any("staging has no effect" in note for note in outcome.notes)


_IN_SMALL = """
import json, os, subprocess, sys, threading
import fsspec, anamnesis
from anamnesis.errors import LimitError
folder, model, size, out = sys.argv[1:5]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "amn-test", folder], check=True)
os.environ.update(TMPDIR=folder, HOME=folder)
most, done = [0], threading.Event()
def look():
    while not done.wait(0.001):
        s = os.statvfs(folder)
        most[0] = max(most[0], (s.f_blocks - s.f_bfree) * s.f_frsize)
watcher = threading.Thread(target=look, daemon=True)
watcher.start()
run = {"threads": 1, "disk": int(size)} | ({"staging": folder} if "stage" in sys.argv else {})
failed = ""
try:
    anamnesis.run({"inputs": [model], "run": run,
        "output": {"path": "memory://out", "max_shard_size": "4.2MB", "format": out}})
except LimitError as error:
    failed = type(error).__name__
done.set()
watcher.join()
sent = sum(len(f.getvalue()) for n, f in fsspec.filesystem("memory").store.items())
left = sorted({*os.listdir(folder)} - {".cache"})  # of kernels
print(json.dumps([most[0], failed, sent, left]))
"""


def in_small(folder: Path, model: Path, *arguments: str) -> tuple[int, str, int, list[str]]:
    """Run in a file system of so many bytes, mounted in name spaces of its own."""
    folder.mkdir()
    command = ["unshare", "-Urm", sys.executable, "-c", _IN_SMALL, str(folder), str(model)]
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "amn-test", str(folder)]
    try:
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("may not mount a file system here")
    except OSError:
        pytest.skip("cannot mount a file system here")
    environment = {**os.environ, "NUMBA_CACHE_DIR": ""}
    done = subprocess.run([*command, *arguments], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    most, failed, sent, left = json.loads(done.stdout)
    return most, failed, sent, left


@pytest.mark.parametrize("to", ["safetensors", "parquet"])
def test_a_file_system_smaller_than_a_shard(model: Path, tmp_path: Path, to: str) -> None:
    """Of 12 MiB in shards of 4: without staging 1 MiB is enough, with it a plan is refused."""
    most, failed, sent, _ = in_small(tmp_path / "none", model, str(MiB), to)
    assert (failed, most < MiB, sent > 12 * MiB) == ("", True, True)
    most, failed, sent, left = in_small(tmp_path / "less", model, str(MiB), to, "stage")
    assert (failed, sent, left) == ("LimitError", 0, [])
    room = 14 * MiB if to == "parquet" else 9 * MiB
    most, failed, sent, left = in_small(tmp_path / "room", model, str(room), to, "stage")
    assert (failed, sent > 12 * MiB, left) == ("", True, [])
    assert 4 * MiB <= most <= room
