"""Whole conversions: the streaming loop and the whole command against the I/O floor.

- *floor*: the plan's own reads and writes with nothing between (`floor.py`), in this process.
- *loop*: `run_plan` in this process, kernels compiled and imports done: reads, decoding, checksums,
  writes, and the commit of the file.
- *command*: `amn remember` in a process of its own: wall time and peak resident memory. Its work
  begins with the first values that it writes; what is before is start-up.
- *floor, own process*: the floor after the same imports and the same start-up.

The four alternate; outputs are removed between them, outside of the clock. On a disk, the input is
taken out of memory before each.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from benchmarks import commands
from benchmarks.cases import CASES
from benchmarks.commands import COMMAND as COMMAND
from benchmarks.commands import launch as launch
from benchmarks.floor import Floor
from benchmarks.measure import Neighbours, Times, forget, keep, patience, scratch, timed
from benchmarks.models import write_model
from benchmarks.opened import encoding_plan_of, plan_of

ROWS, COLUMNS = 11008, 4096


@dataclass(frozen=True, slots=True)
class Conversion:
    """A model of layers of one case, its usual size, and what the loop may take of the floor.

    With a target it is encoded, in memory, or from a disk to the same one.
    """

    case: str
    gib: float
    goal: float
    target: str = ""
    on_disk: bool = False


MODELS = {
    name: conversion
    for name, conversion in {
        "awq": Conversion("awq int4 g128", 1, 1.4),
        "fp8": Conversion("fp8-e4m3 block", 1, 1.1),
        "fp8 2 GiB": Conversion("fp8-e4m3 block", 2, 1.1),
        "fp8-channel": Conversion("fp8-e4m3 channel", 1, 1.1),
        "gptq": Conversion("gptq int4 g128", 1, 1.4),
        "gptq-act-order": Conversion("gptq int4 act-order", 1, 1.4),
        "nf4": Conversion("bnb nf4 nested", 1, 1.4),
        "q4_k": Conversion("gguf-q4-k", 1, 1.1),
        "q8_0": Conversion("gguf-q8-0", 1, 1.1),
        "to Q8_0": Conversion("bf16 to f32", 1, 1.15, "gguf-q8-0"),
        "to Q8_0, disk": Conversion("bf16 to f32", 1, 1.15, "gguf-q8-0", True),
        "to fp8-block": Conversion("bf16 to f32", 1, 1.15, "fp8-block"),
        "to fp8-block, disk": Conversion("bf16 to f32", 1, 1.15, "fp8-block", True),
    }.items()
    if conversion.case in CASES
}
USUAL = ("fp8", "fp8 2 GiB", "q8_0", "q4_k", "nf4", "gptq", "awq")
USUAL += tuple(name for name, conversion in MODELS.items() if conversion.target)


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
    if set(USUAL) <= set(names):
        keep("end-to-end", results, all_others)
    return results


def measure(name: str, gib: float, folder: str | None, threads: int, repeat: int) -> dict[str, Any]:
    """One model; everything written is removed."""
    layer = CASES[MODELS[name].case].make(ROWS, COLUMNS)
    layers = max(1, int(gib * GiB / layer.nbytes))
    out_bytes = layers * ROWS * COLUMNS * 2  # at most
    if MODELS[name].on_disk:
        folder = folder or tempfile.gettempdir()
    place = scratch(folder, layers * layer.nbytes + out_bytes + 256 * MiB)
    try:
        path = write_model(place, layer, layers)
        stored_bytes = layers * layer.nbytes
        del layer
        target, cold = MODELS[name].target, MODELS[name].on_disk
        found, out_bytes = alternating(path, place / "out", threads, repeat, target, cold=cold)
    finally:
        shutil.rmtree(place)
    result: dict[str, Any] = {
        "model": name,
        "goal": MODELS[name].goal,
        "target": MODELS[name].target,
        "stored_bytes": stored_bytes,
        "out_bytes": out_bytes,
        "threads": threads,
        "repetitions": repeat,
    }
    for work, phases in found.items():
        result[work] = {
            phase: list(Times.of([one[phase] for one in phases])) for phase in phases[0]
        }
    result["loop_to_floor"] = _ratio(result, "loop", "floor", "wall")
    result["command_to_floor"] = _ratio(result, "command", "floor, own process", "wall")
    result["work_to_floor"] = _ratio(result, "command", "floor, own process", "work")
    return result


def _ratio(result: dict[str, Any], work: str, floor: str, phase: str) -> float:
    """Of the medians."""
    return float(result[work][phase][0] / result[floor][phase][0])


def alternating(
    path: Path, out: Path, threads: int, repeat: int, target: str = "", *, cold: bool = False
) -> tuple[dict[str, list[dict[str, float]]], int]:
    """The four, `repeat` times in turn after a round that compiles; seconds and bytes of each.

    Then the bytes of the output. Each reads from the disk if `cold`.
    """
    out = out.with_suffix(".gguf" if target.startswith("gguf-") else ".safetensors")
    plan = encoding_plan_of(path, out, target, threads) if target else plan_of(path, out, threads)
    here = Floor(plan, out, threads)
    startup = 1.0

    def command() -> dict[str, float]:
        nonlocal startup
        found = commands.remember(path, out, threads, target)
        startup = found["startup"]
        return found

    works: dict[str, Callable[[], dict[str, float]]] = {
        "floor": lambda: _here(here.run),
        "loop": lambda: _here(lambda: convert(plan, threads)),
        "command": command,
        "floor, own process": lambda: commands.floor(path, out, threads, startup, target),
    }
    return repeated(works, out, repeat, path if cold else None), plan.out_bytes


def repeated(
    works: Mapping[str, Callable[[], dict[str, float]]],
    out: Path,
    repeat: int,
    cold: Path | None = None,
) -> dict[str, list[dict[str, float]]]:
    """What works that write `out` give in turn, so many times after one that does not count.

    The file `cold` is taken out of memory before each.
    """
    found: dict[str, list[dict[str, float]]] = {work: [] for work in works}
    for repetition in range(repeat + 1):
        for name, work in works.items():
            one = undisturbed(work, out, cold)
            if repetition:
                found[name].append(one)
    return found


def undisturbed(
    work: Callable[[], dict[str, float]], out: Path, cold: Path | None = None
) -> dict[str, float]:
    """What a work that writes `out` gives, once others left it alone; its output is removed."""
    while True:
        patience.wait()
        if cold is not None:
            forget(cold)
        others = Neighbours()
        found = work()
        kept = patience.accepts(others.cpus())
        for written in out.parent.glob(f"*{out.name}*"):
            written.unlink()
        if kept:
            return found


def convert(plan: Plan, threads: int) -> None:
    """Run a plan in this process without a word."""
    run_plan(plan, "threads", Options(threads=threads), make_progress("quiet"))


def _here(work: Callable[[], None]) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = timed(work)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": seconds,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
    }


def _table(result: dict[str, Any]) -> Table:
    sizes = f"{result['stored_bytes'] / GiB:.2f} GiB to {result['out_bytes'] / GiB:.2f} GiB"
    table = Table(title=f"{result['model']}: {sizes}, {result['threads']} threads")
    table.add_column("")
    heads = (
        "seconds",
        "range",
        "x floor",
        "start-up",
        "work",
        "work x floor",
        "GB/s out",
        "user s",
    )
    for head in (*heads, "system s", "peak MiB"):
        table.add_column(head, justify="right")
    ratios = {"loop": ("loop_to_floor", ""), "command": ("command_to_floor", "work_to_floor")}
    for work in ("floor", "loop", "floor, own process", "command"):
        phases = result[work]
        median, low, high = phases["wall"]
        whole, rest = ratios.get(work, ("", ""))
        table.add_row(
            work,
            f"{median:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{result[whole]:.2f}" if whole else "",
            f"{phases['startup'][0]:.2f}" if "startup" in phases else "",
            f"{phases['work'][0]:.2f}" if "work" in phases else "",
            f"{result[rest]:.2f}" if rest else "",
            f"{result['out_bytes'] / median / 1e9:.2f}",
            f"{phases['user'][0]:.2f}",
            f"{phases['system'][0]:.2f}",
            f"{phases['peak_bytes'][0] / MiB:.0f}" if "peak_bytes" in phases else "",
        )
    return table
