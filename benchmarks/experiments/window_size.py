"""The streaming loop, FP8 and Q8_0 on tmpfs, two threads, by the size of a window."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from anamnesis.limits import GiB, KiB, MiB
from anamnesis.pipeline import plan as planning
from benchmarks.cases import CASES
from benchmarks.end_to_end import COLUMNS, ROWS, convert
from benchmarks.floor import Floor
from benchmarks.measure import Times, interleave, scratch
from benchmarks.models import write_model
from benchmarks.opened import plan_of

SIZES = [128 * KiB << n for n in range(8)]
THREADS = 2
REPETITIONS = 5


def run(console: Console, gib: float = 0.5) -> Any:
    """For each size the loop and the floor with that size, in turn."""
    results = {}
    for case in ("fp8-e4m3 block", "gguf-q8-0"):
        layer = CASES[case].make(ROWS, COLUMNS)
        layers = max(1, int(gib * GiB / layer.nbytes))
        folder = scratch(None, layers * (layer.nbytes + 2 * ROWS * COLUMNS))
        try:
            path = write_model(folder, layer, layers)
            del layer
            results[case] = _sweep(path, folder / "out.safetensors")
        finally:
            shutil.rmtree(folder)
        console.print(_table(case, results[case]))
    return {
        case: {size: {k: list(t) for k, t in works.items()} for size, works in found.items()}
        for case, found in results.items()
    }


def _sweep(path: Path, out: Path) -> dict[int, dict[str, Times]]:
    usual = planning.WINDOW_BYTES
    works: dict[Any, Any] = {}
    try:
        for size in SIZES:
            planning.WINDOW_BYTES = size
            plan = plan_of(path, out, THREADS)
            works[size, "floor"] = Floor(plan, out, THREADS).run
            works[size, "loop"] = lambda plan=plan: convert(plan, THREADS)
    finally:
        planning.WINDOW_BYTES = usual

    def clean() -> None:
        for written in out.parent.glob(f"*{out.name}*"):
            written.unlink()

    found = interleave(works, REPETITIONS, after=clean)
    return {size: {name: found[size, name] for name in ("floor", "loop")} for size in SIZES}


def _table(case: str, found: dict[int, dict[str, Times]]) -> Table:
    table = Table(title=case)
    for head in ("window", "loop, s (range)", "floor, s (range)", "loop / floor", "loop / 1 MiB"):
        table.add_column(head, justify="right")
    usual = found[MiB]["loop"].median
    for size, works in found.items():
        loop, floor = works["loop"], works["floor"]
        table.add_row(
            f"{size // KiB} KiB" if size < MiB else f"{size // MiB} MiB",
            loop.text(),
            floor.text(),
            f"{loop.median / floor.median:.2f}",
            f"{loop.median / usual:.2f}",
        )
    return table
