"""Kernels, one thread, warm buffers: million elements a second, and ratios to a plain copy.

The copy is `np.copyto` of as many elements of the output's dtype, timed in turn with the kernel.
A *window* is what the conversion decodes at a time and fits the cache; *45 M* is a whole matrix
in one call. *Two threads* decode windows of their own at the same time, in turn with one; so do two
that hash a password, which takes neither memory nor the interpreter: what two of the machine's
processors are worth at that moment. Peers decode a layer of half a window, in turn with ours.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window
from anamnesis.pipeline.plan import WINDOW_BYTES
from anamnesis.readers.batch import aligned
from benchmarks.cases import CASES, Case
from benchmarks.decoders import Problem
from benchmarks.measure import Neighbours, Times, interleave, keep, rounds, scratch
from benchmarks.opened import Opened, opened
from benchmarks.peers import calls, installed

ROWS, COLUMNS = 11008, 4096
WINDOW_ELEMS = WINDOW_BYTES // 2
PEER_ELEMS = 512 * 1024
WINDOW_CALLS, WINDOW_REPETITIONS = 8, 25
MATRIX_REPETITIONS = 7
PEER_REPETITIONS = 5
THREAD_SECONDS, THREAD_REPETITIONS = 0.03, 15


def run(console: Console, patterns: Sequence[str] = (), rows: int = ROWS) -> list[dict[str, Any]]:
    """Measure the cases that match (all without patterns), print a table, keep the results."""
    chosen = [c for c in CASES.values() if not patterns or _matches(c.name, patterns)]
    folder = scratch(None, rows * COLUMNS * 10)
    results, others = [], Neighbours()
    try:
        with console.status("") as status:
            for case in chosen:
                status.update(case.name)
                results.append(measure(case, folder, rows, COLUMNS))
    finally:
        shutil.rmtree(folder)
    console.print(_table(results, rows * COLUMNS), _peer_table(results), others.text())
    if not patterns:
        keep("kernels", {"peers": installed(), "cases": results}, others)
    return results


def measure(case: Case, folder: Path, rows: int, columns: int) -> dict[str, Any]:
    """One case: windows, one thread and two, the whole matrix, and the peers."""
    result: dict[str, Any] = {"name": case.name, "goal": case.goal, "target": case.target}
    with opened(case, folder, rows, columns) as found:
        units = found.step.tensor.units
        window = Window(0, min(units, max(1, WINDOW_ELEMS // found.step.tensor.unit_elems)))
        result["window"] = _against_copy(found, window, WINDOW_REPETITIONS, WINDOW_CALLS)
        result["two_threads"] = _two_threads(found, window)
        result["matrix"] = _against_copy(found, Window(0, units), MATRIX_REPETITIONS, 1)
    result["peers"] = against_peers(case, folder, PEER_ELEMS // columns, columns)
    return result


def against_peers(case: Case, folder: Path, rows: int, columns: int) -> dict[str, Any]:
    """Rates of the peers that are there, each with ours to the same width in turn."""
    problem = Problem(case.encoding, case.make(rows, columns), (rows, columns))
    with opened(case, folder, rows, columns) as found:
        tensor = found.step.tensor
        window = Window(0, tensor.units)
        views = found.views(window)
        works: dict[str, Callable[[], Any]] = {}
        for name, kind in (("float32", np.float32), ("bfloat16", np.uint16)):
            out = _ones(tensor.elems, kind)
            works[name] = _decoding(found, views, window, out)
            if name == "float32":
                works[name]()
                values = out
        outs = {}
        for peer, call in calls(problem, values):
            outs[peer.name], works[peer.name] = peer.out, call
        if not outs:
            return {}
        took = interleave(works, PEER_REPETITIONS)
    return {
        name: {
            "out": out,
            "mel_s": (rates := _rates(tensor.elems, took[name]))[0],
            "mel_s_range": rates[1:],
            "ours": took[name].median / took["float32" if out == "float32" else "bfloat16"].median,
        }
        for name, out in outs.items()
    }


def _ones(elems: int, kind: Any) -> Any:
    """Memory as the conversion has it: numpy's begins anywhere in a cache line."""
    array = aligned(elems, kind)
    array[:] = 1
    return array


def _decoding(found: Opened, views: Any, window: Window, out: Any) -> Callable[[], Any]:
    return lambda: found.decode(views, found.params, window, out)


def _against_copy(
    found: Opened, window: Window, repetitions: int, calls: int
) -> dict[str, float | list[float]]:
    elems = min(window.stop * found.step.tensor.unit_elems, found.step.tensor.elems)
    views = found.views(window)
    out, source, target = (_ones(elems, found.kind) for _ in range(3))
    took = interleave(
        {
            "kernel": _decoding(found, views, window, out),
            "copy": lambda: np.copyto(target, source),
        },
        repetitions,
        calls,
    )
    rates = {name: _rates(elems, times) for name, times in took.items()}
    return {
        "elems": elems,
        "mel_s": rates["kernel"][0],
        "mel_s_range": rates["kernel"][1:],
        "copy_mel_s": rates["copy"][0],
        "to_copy": took["copy"].median / took["kernel"].median,
    }


def _two_threads(found: Opened, window: Window) -> dict[str, Any]:
    """How many times faster two threads decode windows than one, each into its own buffers.

    `machine` is the same of work that stays in registers, in the same rounds.
    """
    elems = min(window.stop * found.step.tensor.unit_elems, found.step.tensor.elems)
    views = found.views(window)
    decoding = []
    for _ in range(2):
        own = {}
        for role, view in views.items():
            own[role] = aligned(view.size, view.dtype).reshape(view.shape)
            own[role][:] = view
        decoding.append(_lasting(_decoding(found, own, window, _ones(elems, found.kind))))
    hashing = [_hashing(), _hashing()]
    with ThreadPoolExecutor(2) as pool:

        def together(works: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
            return lambda: list(pool.map(lambda work: work(), works))

        def alternated(works: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
            return together([lambda: [work() for work in works]])

        took = rounds(
            {
                "one": alternated(decoding),
                "two": together(decoding),
                "one hash": alternated(hashing),
                "two hashes": together(hashing),
            },
            THREAD_REPETITIONS,
        )
    return {
        "speedup": _speedup(took["one"], took["two"]),
        "machine": _speedup(took["one hash"], took["two hashes"]),
    }


def _lasting(work: Callable[[], Any]) -> Callable[[], Any]:
    """A work as often as `THREAD_SECONDS` take."""
    once = interleave({"": work}, 3)[""].median
    count = max(4, round(THREAD_SECONDS / once))

    def some() -> None:
        for _ in range(count):
            work()

    return some


def _hashing() -> Callable[[], Any]:
    """So long a work that needs a processor and nothing else: one call, without the GIL."""
    rounds = 1000
    once = interleave({"": lambda: pbkdf2_hmac("sha256", b"", b"", rounds)}, 3)[""].median
    rounds = max(rounds, round(rounds * THREAD_SECONDS / once))
    return lambda: pbkdf2_hmac("sha256", b"", b"", rounds)


def _speedup(one: Sequence[float], two: Sequence[float]) -> float:
    """Of neighbours in time: processors that are shared change their speed by the second."""
    return statistics.median(a / b for a, b in zip(one, two, strict=True))


def _rates(elems: int, times: Times) -> list[float]:
    return [elems / s / 1e6 for s in (times.median, times.high, times.low)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or p in name for p in patterns)


def _table(results: Sequence[dict[str, Any]], elems: int) -> Table:
    table = Table(title="Kernels, one thread: million elements a second")
    table.add_column("case")
    heads = ("window", "range", "x copy", f"{elems / 1e6:.0f} M", "range", "x copy")
    for head in (*heads, "goal", "2 threads x", "machine x"):
        table.add_column(head, justify="right")
    for result in results:
        cells = []
        for size in ("window", "matrix"):
            low, high = result[size]["mel_s_range"]
            rate, ratio = result[size]["mel_s"], result[size]["to_copy"]
            cells += [f"{rate:,.0f}", f"{low:,.0f}-{high:,.0f}", f"{ratio:.2f}"]
        behind = result["matrix"]["to_copy"] < result["goal"]
        goal = f"{result['goal']}{' !' if behind else ''}"
        threads = [f"{result['two_threads'][key]:.2f}" for key in ("speedup", "machine")]
        table.add_row(result["name"], *cells, goal, *threads)
    return table


def _peer_table(results: Sequence[dict[str, Any]]) -> Table:
    names = sorted({name for result in results for name in result["peers"]})
    table = Table(title="Peers, one thread, a layer of 0.5 M elements: times as fast as they are")
    table.add_column("case")
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        cells = [result["peers"].get(name, {}).get("ours") for name in names]
        if any(cells):
            table.add_row(result["name"], *(f"{c:,.1f}" if c else "" for c in cells))
    return table
