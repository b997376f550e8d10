"""What a task costs besides its work, and how large it must be to hide that.

The costs are measured by `benchmarks.scaling`; the speed of a thread is the loop's in
`end-to-end`, FP8, over both of its threads.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from anamnesis.limits import MiB
from anamnesis.pipeline import plan as planning
from benchmarks.measure import Neighbours, keep, kept
from benchmarks.scaling.overheads import task_costs

TASKS, WORKERS, REPETITIONS = 1000, 2, 3
HIDDEN = 0.02  # of a task's time


def run(console: Console) -> dict[str, Any]:
    """Measure, print a table, keep the results."""
    others = Neighbours()
    size = planning.TASK_BYTES
    with console.status("tasks"):
        try:
            costs = task_costs(TASKS, WORKERS, REPETITIONS)
        finally:
            planning.TASK_BYTES = size
    rate = thread_rate()
    executors = {}
    for name in ("serial", "threads", "distributed"):
        median = costs[name]["microseconds"][0]
        # Workers share what a run costs a task; each of them has its own task meanwhile.
        parallel = 1 if name == "serial" else WORKERS
        executors[name] = {
            "microseconds": costs[name]["microseconds"],
            "hiding_bytes": median * 1e-6 * parallel / HIDDEN * rate,
            "share_of_task": median * 1e-6 * parallel / (size / rate),
        }
    results = {
        "tasks": TASKS,
        "workers": WORKERS,
        "task_bytes": size,
        "thread_bytes_s": rate,
        "executors": executors,
    }
    console.print(_table(results), others.text())
    keep("tasks", results, others)
    return results


def thread_rate() -> float:
    """Output bytes a second of one of the loop's threads."""
    fp8 = next(r for r in kept("end-to-end")["results"] if r["model"] == "fp8")
    return float(fp8["out_bytes"] / fp8["loop"]["wall"][0] / fp8["threads"])


def _table(results: dict[str, Any]) -> Table:
    table = Table(title=f"A task besides its work; {results['workers']} workers")
    for head in ("", "us (range)", f"MiB out that make it {HIDDEN:.0%}", "of a task of the plan"):
        table.add_column(head, justify="right" if head else "left")
    for name, one in results["executors"].items():
        median, low, high = one["microseconds"]
        hiding = f"{one['hiding_bytes'] / MiB:,.0f}"
        table.add_row(name, f"{median} ({low}-{high})", hiding, f"{one['share_of_task']:.1%}")
    return table
