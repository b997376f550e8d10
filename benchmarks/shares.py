"""Where the loop's time goes: the package's own `run_task` with clocks around what it calls.

System calls are `preadv` and `pwrite`, kernels the decoders as they are called (with numba's
dispatch), checksums xxhash and CRC-32; the rest is Python: windows, views, offsets, and waiting for
the interpreter's lock. Commit and fsync are not in it.
"""

from __future__ import annotations

import os
import resource
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from anamnesis.limits import GiB
from anamnesis.pipeline import decode, task
from anamnesis.pipeline.plan import Plan
from benchmarks.cases import CASES
from benchmarks.end_to_end import COLUMNS, MODELS, ROWS
from benchmarks.measure import Neighbours, keep, patience, scratch
from benchmarks.models import write_model
from benchmarks.opened import plan_of

USUAL = ("fp8", "q8_0", "q4_k", "nf4", "gptq", "awq")
PARTS = ("kernels", "reads", "writes", "checksums", "Python")
REPETITIONS = 3
GIB = 1.0


def run(console: Console) -> list[dict[str, Any]]:
    """Measure, print a table, keep the results."""
    results, others = [], Neighbours()
    with console.status("shares"):
        for name in USUAL:
            results += measure(name)
    console.print(_table(results), others.text())
    keep("shares", results, others)
    return results


def measure(name: str) -> list[dict[str, Any]]:
    """One model by one thread and by two: seconds of thread time in each part, of medians."""
    layer = CASES[MODELS[name].case].make(ROWS, COLUMNS)
    layers = max(1, int(GIB * GiB / layer.nbytes))
    folder = scratch(None, layers * (layer.nbytes + 2 * ROWS * COLUMNS))
    results = []
    try:
        path, out = write_model(folder, layer, layers), folder / "out.safetensors"
        plan = bound(plan_of(path, out), out)
        for threads in (1, 2):
            found = [one for _ in range(REPETITIONS + 1) if (one := once(plan, threads))][1:]
            middle = sorted(found, key=lambda one: one["wall"])[len(found) // 2]
            results.append({"model": name, "threads": threads, "windows": _windows(plan), **middle})
    finally:
        shutil.rmtree(folder)
    return results


def bound(plan: Plan, out: Path) -> Plan:
    """The plan with its tasks writing to `out`, which is made."""
    out.touch()
    os.truncate(out, plan.out_bytes)
    return replace(plan, tasks=tuple(replace(t, part=str(out)) for t in plan.tasks))


def _windows(plan: Plan) -> int:
    return sum(-(-(p.stop - p.start) // p.step.window_units) for t in plan.tasks for p in t.pieces)


def once(plan: Plan, threads: int) -> dict[str, Any]:
    """All tasks once, over an output that has its pages."""
    patience.wait()
    clocks = dict.fromkeys(PARTS, 0.0)
    lock = threading.Lock()
    waiting = deque(plan.tasks)
    spent = []

    def work() -> None:
        begin = time.perf_counter()
        while True:
            try:
                one = waiting.popleft()
            except IndexError:
                break
            task.run_task(one)
        with lock:
            spent.append(time.perf_counter() - begin)

    before = resource.getrusage(resource.RUSAGE_SELF)
    with _clocked(clocks, lock):
        begin = time.perf_counter()
        running = [threading.Thread(target=work) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    clocks["Python"] = sum(spent) - sum(clocks.values())
    return {
        "wall": wall,
        "thread_seconds": sum(spent),
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "shares": {part: seconds / sum(spent) for part, seconds in clocks.items()},
    }


@contextmanager
def _clocked(clocks: dict[str, float], lock: threading.Lock) -> Iterator[None]:
    def around(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - begin
                with lock:
                    clocks[part] += took

        return timed

    make_decoder, make_digest = decode.decoder, task.xxhash.xxh3_128

    class Digest:
        def __init__(self) -> None:
            digest = make_digest()
            self.update = around("checksums", digest.update)
            self.hexdigest = digest.hexdigest

    with (
        mock.patch.object(decode, "decoder", lambda name: around("kernels", make_decoder(name))),
        mock.patch.object(task, "xxhash", mock.Mock(xxh3_128=Digest)),
        mock.patch.object(os, "preadv", around("reads", os.preadv)),
        mock.patch.object(os, "pwrite", around("writes", os.pwrite)),
    ):
        yield


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="Shares of the threads' time in the loop, tmpfs")
    for head in (
        "model",
        "threads",
        "seconds",
        "user s",
        "system s",
        *PARTS,
        "Python, us a window",
    ):
        table.add_column(head, justify="left" if head == "model" else "right")
    for r in results:
        each = 1e6 * r["shares"]["Python"] * r["thread_seconds"] / r["windows"]
        seconds = [f"{r[k]:.3f}" for k in ("wall", "user", "system")]
        shares = [f"{100 * r['shares'][part]:.0f} %" for part in PARTS]
        table.add_row(r["model"], str(r["threads"]), *seconds, *shares, f"{each:.0f}")
    return table
