"""The recordings of docs/cluster.md: a run, one whose workers are killed, a lost scheduler.

Each is a real command in a folder with an FP8 model and a job file, with `dask scheduler` and two
workers with nannies on this machine; outputs are held against that of the first run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.scaling.page import DOCS
from benchmarks.scaling.processes import Cluster, cluster
from benchmarks.scaling.whole import write_shards

PAGE = DOCS / "cluster.md"
KILLS = 10
_OUT = "model-bf16"
_ALONE = ("--set", "run.executor=threads", "--set", "run.scheduler=null")
Meanwhile = Callable[[Cluster, str], None]


def record(gb: float, folder: str | None) -> dict[str, str]:
    """The recordings by the names of their markers, as consoles show them."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        write_shards(place / "model-fp8", gb)
        first, seconds = _run(place, _leave)
        wanted = _digests(place)
        killed, _ = _run(place, _kill_workers(0.8 * seconds))
        if _digests(place) != wanted:
            raise ValueError("the output of the run whose workers were killed differs")
        lost, _ = _run(place, _kill_scheduler)
        lost += "\n" + _command(place, *_ALONE)
        if _digests(place) != wanted:
            raise ValueError("the output of the run whose scheduler was killed differs")
        return {"a run": first, "workers killed": killed, "scheduler lost": lost}
    finally:
        shutil.rmtree(place)


def rewritten(recordings: dict[str, str]) -> str:
    """The page with the recordings between their markers."""
    text = PAGE.read_text()
    for name, said in recordings.items():
        mark = f"<!-- not run: recorded by benchmarks.scaling, {name};"
        pattern = re.compile(rf"({re.escape(mark)}[^\n]*-->\n```console\n).*?(\n```)", re.DOTALL)
        text, count = pattern.subn(lambda m, s=said: m[1] + s + m[2], text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{PAGE}: has {count} places for {name}")
    return text


def _run(place: Path, meanwhile: Meanwhile) -> tuple[str, float]:
    """What a run says, and its seconds; `meanwhile` is told of every line, and of the cluster."""
    shutil.rmtree(place / _OUT, ignore_errors=True)
    with cluster(2) as workers:
        (place / "cluster.yaml").write_text(
            "inputs: [model-fp8]\n"
            f"output: {{path: {_OUT}, max_shard_size: 1GB}}\n"
            f"run: {{executor: distributed, scheduler: '{workers.address}'}}\n"
        )
        begin, said = time.monotonic(), ""
        process = _started(place)
        for line in process.stdout or ():
            said += line
            meanwhile(workers, line)
        process.wait()
    return _shown((), said), time.monotonic() - begin


def _command(place: Path, *more: str) -> str:
    return _shown(more, _started(place, *more).communicate()[0])


def _started(place: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "anamnesis", "run", "cluster.yaml", *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def _shown(more: tuple[str, ...], said: str) -> str:
    return " ".join(("$ amn run cluster.yaml", *more)) + "\n" + said.rstrip("\n")


def _leave(workers: Cluster, line: str) -> None:
    """Nothing happens to it."""


def _kill_workers(seconds: float) -> Meanwhile:
    """From the first line on ten of them, one after the other, over so many seconds."""

    def kill(workers: Cluster) -> None:
        for _ in range(KILLS):
            time.sleep(seconds / KILLS)
            if there := workers.workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(there), signal.SIGKILL)

    begun: list[threading.Thread] = []

    def meanwhile(workers: Cluster, line: str) -> None:
        if not begun:
            begun.append(threading.Thread(target=kill, args=(workers,), daemon=True))
            begun[0].start()

    return meanwhile


def _kill_scheduler(workers: Cluster, line: str) -> None:
    """When two shards are done."""
    if line.startswith("shard 2/"):
        os.kill(workers.scheduler, signal.SIGKILL)


def _digests(place: Path) -> dict[str, str]:
    return dict(_digest_of(path) for path in sorted((place / _OUT).glob("*.safetensors")))


def _digest_of(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        return path.name, hashlib.file_digest(file, "sha256").hexdigest()
