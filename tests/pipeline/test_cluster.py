"""A scheduler and workers as processes of their own: same bytes, and no loss that matters."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from held_workers import LET_GO, PRELOAD, Cluster, Held

import anamnesis
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.executors import stragglers
from anamnesis.pipeline.jobs import run_job
from anamnesis.pipeline.progress import Progress, Silent, make_progress

CLI = "import sys; from anamnesis.cli.main import main; main()"
SMALL = (
    "import anamnesis.pipeline.plan as plan; plan.WINDOW_BYTES = 10_000; plan.TASK_BYTES = 20_000; "
)
Amn = Callable[..., subprocess.Popen[str]]
# No wait here is bound to a clock but by this: a cluster of a slow machine takes what it takes.
pytestmark = pytest.mark.timeout(900)


def children(pid: int) -> list[int]:
    """The worker processes that a process started."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    found: list[int] = []
    with suppress(FileNotFoundError):
        for entry in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (entry / "children").read_text().split()]
    return [pid for pid in found if b"spawn_main" in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.clear()
    return shared


@pytest.fixture
def amn(tmp_path: Path) -> Iterator[Amn]:
    """Start the command line with small tasks, in a process of its own."""
    started = []

    def start(*arguments: object, before: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SMALL + before + CLI, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=120)


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Callable[..., Path]:
    """A file of tensors by these names, 60 kB each when recovered."""

    def make(*names: str) -> Path:
        rng = np.random.default_rng(5)
        entries: dict[str, Any] = {}
        for name in names:
            codes = rng.integers(0, 0x7F, (100, 300), dtype=np.uint8).tobytes()
            entries[f"{name}.weight"] = ("F8_E4M3", (100, 300), codes)
            scale = rng.random((), dtype=np.float32).tobytes()
            entries[f"{name}.weight_scale"] = ("F32", (), scale)
        return write_safetensors(tmp_path / "model.safetensors", entries)

    return make


def job_file(folder: Path, **run: object) -> Path:
    document = {
        "inputs": [str(folder / "model.safetensors")],
        "output": {"path": str(folder / "out"), "max_shard_size": "61kB"},
        "run": run,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(document))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def whole(folder: Path) -> dict[str, bytes]:
    """What one thread makes of the model."""
    anamnesis.remember(
        folder / "model.safetensors", folder / "whole", executor="serial", max_shard_size="61kB"
    )
    return contents(folder / "whole")


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob(".*"))


def test_same_bytes_from_relative_paths(
    cluster: Cluster, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers run in another folder than the client."""
    model("a", "b", "c")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "TASK_BYTES", 20_000)
    monkeypatch.setattr(planning, "WINDOW_BYTES", 10_000)
    job = job_from(
        inputs=["model.safetensors"],
        output={"path": "out", "max_shard_size": "61kB"},
        run={"executor": "distributed", "scheduler": cluster.address},
    )
    report = io.StringIO()
    (outcome,) = run_job(job, progress=make_progress("plain", report)).outcomes
    assert len(outcome.files) == 3
    assert contents(Path("out")) == whole(Path())
    assert f"scheduler {cluster.address}, dashboard http://127.0.0.1:" in report.getvalue()
    assert hidden(tmp_path) == []


def test_c01_a_worker_that_hangs(
    cluster: Cluster,
    model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one does what it does not, and nobody waits for it."""
    model("a", "held0", "b")
    monkeypatch.setattr(stragglers, "LEAST_SECONDS", 1.0)
    cluster.await_workers(2)
    job = job_from(
        inputs=[str(tmp_path / "model.safetensors")],
        output={"path": str(tmp_path / "out"), "max_shard_size": "61kB"},
        run={"executor": "distributed", "scheduler": cluster.address},
    )
    report = io.StringIO()
    run_job(job, progress=make_progress("plain", report))
    assert contents(tmp_path / "out") == whole(tmp_path)
    assert "held0.weight: does not come back; another worker does it too" in report.getvalue()
    (hanging,) = cluster.hanging()
    os.kill(hanging, signal.SIGKILL)
    assert hidden(tmp_path) == []


class Scaling(Silent):
    """Has a cluster shrink and grow when files are done."""

    def __init__(self, cluster: LocalCluster, sizes: list[int]) -> None:
        self._cluster, self._sizes = cluster, sizes

    def done(self, file_index: int) -> None:
        if self._sizes:
            self._cluster.scale(self._sizes.pop(0))


@pytest.mark.oracle
def test_an_adaptive_cluster(
    model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with no worker, and ends with none; and one that is scaled while a job runs."""
    model(*"abcdef")
    monkeypatch.setattr(planning, "TASK_BYTES", 20_000)
    monkeypatch.setattr(planning, "WINDOW_BYTES", 10_000)

    def run(out: str, progress: Progress | None = None) -> None:
        job = job_from(
            inputs=[str(tmp_path / "model.safetensors")],
            output={"path": str(tmp_path / out), "max_shard_size": "61kB"},
            run={"executor": "distributed", "scheduler": workers.scheduler_address},
        )
        run_job(job, progress=progress or Silent())
        assert contents(tmp_path / out) == whole(tmp_path)
        shutil.rmtree(tmp_path / "whole")

    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as workers:
        workers.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2)
        for out in ("one", "two"):
            run(out)
            while workers.scheduler.workers:
                time.sleep(0.1)
        workers.adapt(minimum=2, maximum=2)
        workers.wait_for_workers(2)
        workers._adaptive.stop()
        sizes = [1, 3, 1]
        run("three", Scaling(workers, sizes))
        assert sizes == []


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    """A run ends well, with the bytes of one thread and nothing else."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert contents(folder / "out") == whole(folder)
    assert hidden(folder) == []
    assert "Traceback" not in errors


KILLS = [2, pytest.param(10, marks=pytest.mark.oracle)]


@pytest.mark.parametrize("kills", KILLS)
def test_c01_workers_that_are_killed_are_replaced(
    cluster: Cluster, model: Callable[..., Path], tmp_path: Path, amn: Amn, kills: int
) -> None:
    model(*(f"held{n:02}" for n in range(kills + LET_GO + 2)))
    process = amn("run", job_file(tmp_path), "--scheduler", cluster.address)
    held = cluster.held(process)
    held.kill(held.let_some_go(tmp_path / "out"), kills)
    held.go()
    finish(process, tmp_path)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the workers of a cluster that a run starts hold tasks."""
    folder = tmp_path / "held"
    folder.mkdir()
    monkeypatch.setenv("HELD_FOLDER", str(folder))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", str(PRELOAD))
    return folder


@pytest.mark.parametrize("kills", KILLS)
def test_c01_kills_on_a_cluster_of_its_own(
    model: Callable[..., Path], tmp_path: Path, amn: Amn, own: Path, kills: int
) -> None:
    """`scheduler: null`: two processes that the run starts and ends."""
    model(*(f"held{n:02}" for n in range(kills + LET_GO + 2)))
    process = amn("run", job_file(tmp_path, executor="distributed", threads=2))
    held = Held(own, process)
    held.kill(held.let_some_go(tmp_path / "out"), kills)
    held.go()
    finish(process, tmp_path)


def test_c01_a_worker_that_cannot_start_again(
    model: Callable[..., Path], tmp_path: Path, amn: Amn, own: Path
) -> None:
    """Its nanny closes itself: another takes its place, as nobody else does the work."""
    model(*(f"held{n:02}" for n in range(5)))
    process = amn("run", job_file(tmp_path, executor="distributed", threads=1))
    held = Held(own, process)
    gone = held.let_some_go(tmp_path / "out")
    (own / "refuse").touch()
    held.kill(gone, 1)
    held.go()
    finish(process, tmp_path)
    assert not (own / "refuse").exists()


# The first receipts are fetched when whoever has them is dead, and neither its nanny nor the next
# one gets a worker to start.
LOST_RECEIPTS = """
import os, signal
from pathlib import Path
from anamnesis.pipeline.executors.distributed import Flight

def fetch_late(flight, futures, fetch=Flight._fetch):
    Flight._fetch = fetch
    for name in ("refuse", "refuse-again"):
        Path(os.environ["HELD_FOLDER"], name).touch()
    for pid in flight._client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    return fetch(flight, futures)

Flight._fetch = fetch_late
"""


def test_c01_receipts_that_are_lost_with_the_only_worker(
    model: Callable[..., Path], tmp_path: Path, amn: Amn, own: Path
) -> None:
    """Their tasks wait for a worker that only the client brings back, while it waits for them."""
    model("a", "b")
    file = job_file(tmp_path, executor="distributed", threads=1)
    finish(amn("run", file, before=LOST_RECEIPTS), tmp_path)
    assert list(own.iterdir()) == []


def test_c01_a_node_that_is_lost(
    cluster: Cluster, model: Callable[..., Path], tmp_path: Path, amn: Amn
) -> None:
    """A worker and its nanny are gone for good, with a task; the others do their work."""
    node = cluster.start_worker()
    cluster.await_workers(3)
    model(*(f"held{n:02}" for n in range(12)))
    process = amn("run", job_file(tmp_path), "--scheduler", cluster.address)
    held = cluster.held(process)
    seen: set[str] = set()
    while (found := held.next(lambda name, pid: name not in seen))[1] not in children(node.pid):
        seen.add(found[0])
    os.killpg(node.pid, signal.SIGKILL)
    held.go()
    finish(process, tmp_path)


def test_c02_a_poison_shard_fails_alone(
    cluster: Cluster, model: Callable[..., Path], tmp_path: Path, amn: Amn
) -> None:
    model("a", "b", "poison", "c", "d")
    process = amn("run", job_file(tmp_path), "--scheduler", cluster.address)
    _, errors = process.communicate()
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith(
        "error: ChildProcessError: poison.weight: every worker that was given it died"
    )
    assert "Traceback" not in errors
    there = contents(tmp_path / "out")
    expected = whole(tmp_path)
    assert there == {name: expected[name] for name in there}
    assert [int(name[6:11]) for name in sorted(there)] == [1, 2, 4, 5]
    assert list(tmp_path.rglob("*.part")) == []


def test_c04_a_scheduler_that_is_lost(
    cluster: Cluster, model: Callable[..., Path], tmp_path: Path, amn: Amn
) -> None:
    """The last test of this file: it takes the cluster down."""
    model(*(f"held{n}" for n in range(6)))
    process = amn("run", job_file(tmp_path), "--scheduler", cluster.address)
    cluster.held(process).let_some_go(tmp_path / "out")
    os.kill(cluster.scheduler.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        f"error: ConnectionError: the scheduler {cluster.address} was lost; run the job again to "
        "go on where it was"
    )
    assert list(tmp_path.rglob("*.part")) == []
    finished = {p: p.stat().st_ino for p in (tmp_path / "out").glob("model-*")}
    assert finished
    again = amn("run", job_file(tmp_path, executor="threads"))
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert {p: p.stat().st_ino for p in finished} == finished
    assert contents(tmp_path / "out") == whole(tmp_path)
    assert hidden(tmp_path) == []
