"""Whole conversions: the streaming loop and the whole command against the I/O floor.

- *floor*: the plan's own reads and writes with nothing between (`floor.py`).
- *loop*: `run_plan` in this process, kernels compiled and imports done: reads, decoding, checksums,
  writes, and the commit of the file.
- *command*: `amn remember` in a process of its own: wall time and peak resident memory.

The three take turns; outputs are removed between them, outside of the clock. A virtual machine
gives free memory back to its host and gets it back slowly, so on tmpfs a file as large as the
output is written and removed before each of them.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from anamnesis.limits import GiB, MiB
from anamnesis.pipeline.executors import Options
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.progress import make_progress
from anamnesis.pipeline.run import run_plan
from benchmarks.cases import CASES
from benchmarks.floor import Floor
from benchmarks.measure import Neighbours, Times, keep, patience, scratch, timed
from benchmarks.models import write_model
from benchmarks.opened import plan_of

ROWS, COLUMNS = 11008, 4096
COMMAND = "from anamnesis.pipeline.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Conversion:
    """A model of layers of one case; `gib` is its usual size."""

    case: str
    gib: float


MODELS = {
    name: conversion
    for name, conversion in {
        "awq": Conversion("awq int4 g128", 1),
        "fp8": Conversion("fp8-e4m3 block", 2),
        "fp8-channel": Conversion("fp8-e4m3 channel", 2),
        "gptq": Conversion("gptq int4 g128", 1),
        "gptq-act-order": Conversion("gptq int4 act-order", 1),
        "nf4": Conversion("bnb nf4 nested", 1),
        "q4_k": Conversion("gguf-q4-k", 1),
        "q8_0": Conversion("gguf-q8-0", 1),
    }.items()
    if conversion.case in CASES
}


def run(
    console: Console,
    names: Sequence[str],
    gib: float | None,
    folder: str | None,
    threads: int,
    repeat: int,
) -> list[dict[str, Any]]:
    """Measure the models, print a table, keep the results."""
    results, all_others = [], Neighbours()
    for name in names:
        if name not in MODELS:
            raise SystemExit(f"{name}: no such model; these are: {', '.join(MODELS)}")
        others = Neighbours()
        with console.status(name):
            results.append(measure(name, gib or MODELS[name].gib, folder, threads, repeat))
        console.print(_table(results[-1]), others.text())
    keep("end-to-end", results, all_others)
    return results


def measure(name: str, gib: float, folder: str | None, threads: int, repeat: int) -> dict[str, Any]:
    """One model; everything written is removed."""
    layer = CASES[MODELS[name].case].make(ROWS, COLUMNS)
    layers = max(1, int(gib * GiB / layer.nbytes))
    out_bytes = layers * ROWS * COLUMNS * 2
    place = scratch(folder, layers * layer.nbytes + out_bytes + 256 * MiB)
    try:
        path = write_model(place, layer, layers)
        stored_bytes = layers * layer.nbytes
        del layer
        seconds, cpu, peaks = _take_turns(path, place / "out.safetensors", threads, repeat)
    finally:
        shutil.rmtree(place)
    times = {work: Times.of(found) for work, found in seconds.items()}
    floor = times["floor"].median
    return {
        "model": name,
        "stored_bytes": stored_bytes,
        "out_bytes": out_bytes,
        "threads": threads,
        "repetitions": repeat,
        "seconds": {work: list(t) for work, t in times.items()},
        "cpu_seconds": {
            work: [_middle(c) for c in zip(*all_, strict=True)] for work, all_ in cpu.items()
        },
        "to_floor": {work: t.median / floor for work, t in times.items()},
        "best_to_floor": {work: t.low / times["floor"].low for work, t in times.items()},
        "peak_bytes": [_middle(peaks), min(peaks), max(peaks)],
    }


def _take_turns(
    path: Path, out: Path, threads: int, repeat: int
) -> tuple[dict[str, list[float]], dict[str, list[tuple[float, float]]], list[int]]:
    plan = plan_of(path, out, threads)
    floor = Floor(plan, out, threads)
    peaks: list[int] = []
    command = [sys.executable, "-c", COMMAND, "remember", str(path), "-o", str(out)]
    command += ["--threads", str(threads)]

    def whole() -> tuple[float, float, float]:
        found = launch(command)
        peaks.append(found["peak_bytes"])
        return found["seconds"], found["user"], found["system"]

    works = {
        "floor": lambda: _here(floor.run),
        "loop": lambda: _here(lambda: convert(plan, threads)),
        "command": whole,
    }
    seconds: dict[str, list[float]] = {work: [] for work in works}
    cpu: dict[str, list[tuple[float, float]]] = {work: [] for work in works}
    in_memory = out.is_relative_to("/dev/shm")

    def one(name: str) -> tuple[float, float, float]:
        while True:
            patience.wait()
            if in_memory:
                floor.run()
                out.unlink()
            others = Neighbours()
            found = works[name]()
            kept = patience.accepts(others.cpus())
            for written in out.parent.glob(f"*{out.name}*"):
                written.unlink()
            if kept:
                return found

    for repetition in range(repeat + 1):  # the first compiles
        for name in works:
            took, user, system = one(name)
            if repetition:
                seconds[name].append(took)
                cpu[name].append((user, system))
    return seconds, cpu, peaks[1:]


def convert(plan: Plan, threads: int) -> None:
    """Run a plan in this process without a word."""
    run_plan(plan, "threads", Options(threads=threads), make_progress("quiet"))


def launch(command: Sequence[str]) -> dict[str, Any]:
    """Run a command through `launch.py`; raises when it fails."""
    script = str(Path(__file__).with_name("launch.py"))
    done = subprocess.run(
        [sys.executable, "-S", "-E", script, *command], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if found["exit"]:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return found


def _here(work: Callable[[], None]) -> tuple[float, float, float]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = timed(work)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _table(result: dict[str, Any]) -> Table:
    sizes = f"{result['stored_bytes'] / GiB:.2f} GiB to {result['out_bytes'] / GiB:.2f} GiB"
    table = Table(title=f"{result['model']}: {sizes}, {result['threads']} threads")
    table.add_column("")
    for head in (
        "seconds",
        "range",
        "x floor",
        "best x floor",
        "GB/s out",
        "user s",
        "system s",
        "peak MiB",
    ):
        table.add_column(head, justify="right")
    for work, (median, low, high) in result["seconds"].items():
        user, system = result["cpu_seconds"][work]
        peak = f"{result['peak_bytes'][0] / MiB:.0f}" if work == "command" else ""
        table.add_row(
            work,
            f"{median:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{result['to_floor'][work]:.2f}",
            f"{result['best_to_floor'][work]:.2f}",
            f"{result['out_bytes'] / median / 1e9:.2f}",
            f"{user:.2f}",
            f"{system:.2f}",
            peak,
        )
    return table
