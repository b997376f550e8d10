"""Q8_0 and Q4_0 decoded in memory: where outputs of 2, 16, 90 and 200 MB are put.

- *reused*: one array for all repetitions, its pages are there.
- *fresh*, *zeroed*: `np.empty` or `np.zeros` each time.
- *window, then append*: a reused window of 1 MiB, appended to a bytearray that grows.
- *windows, then join*: a fresh window each time, `np.concatenate` at the end.
- *window, dropped*: what the conversion does; the window would be written here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window
from benchmarks.cases import CASES
from benchmarks.measure import Times, interleave, scratch
from benchmarks.opened import Opened, opened

CASES_HERE = ("gguf-q8-0", "gguf-q4-0")
MEGABYTES = (2, 16, 90, 200)
COLUMNS = 4096
REPETITIONS = 7

Put = Callable[[], Any]


def run(console: Console) -> Any:
    """Every way in turn, one thread, for both types and all sizes."""
    results: dict[str, dict[str, Times]] = {}
    for case in CASES_HERE:
        for size in MEGABYTES:
            rows = size * 1_000_000 // 2 // COLUMNS
            folder = scratch(None, 8 * size * 1_000_000)
            try:
                with opened(CASES[case], folder, rows, COLUMNS) as found:
                    works = _works(found)
                    calls = max(1, 32 // size)
                    results[f"{case}, {size} MB"] = interleave(works, REPETITIONS, calls)
            finally:
                shutil.rmtree(folder)
    console.print(_table(results))
    return {name: {n: list(t) for n, t in times.items()} for name, times in results.items()}


def _works(found: Opened) -> dict[str, Put]:
    tensor, size = found.step.tensor, found.step.window_units
    elems = tensor.units * tensor.unit_elems
    everything = Window(0, tensor.units)
    payload = found.views(everything)["payload"]
    decode, params = found.decode, found.params
    kept = np.ones(elems, np.uint16)
    window_out = np.ones(size * tensor.unit_elems, np.uint16)

    def whole(out: Any) -> Any:
        decode({"payload": payload}, params, everything, out)
        return out

    def windows(fresh: bool) -> Iterator[Any]:
        for start in range(0, tensor.units, size):
            window = Window(start, min(start + size, tensor.units))
            here = (window.stop - window.start) * tensor.unit_elems
            out = np.empty(here, np.uint16) if fresh else window_out[:here]
            decode({"payload": payload[window.start : window.stop]}, params, window, out)
            yield out

    def append() -> Any:
        grown = bytearray()
        for out in windows(fresh=False):
            grown += memoryview(out).cast("B")
        return grown

    def drop() -> None:
        for _ in windows(fresh=False):
            pass

    return {
        "reused": lambda: whole(kept),
        "fresh": lambda: whole(np.empty(elems, np.uint16)),
        "zeroed": lambda: whole(np.zeros(elems, np.uint16)),
        "window, then append": append,
        "windows, then join": lambda: np.concatenate(list(windows(fresh=True))),
        "window, dropped": drop,
    }


def _table(results: dict[str, dict[str, Times]]) -> Table:
    table = Table(title="Milliseconds (range), and times the reused array's")
    table.add_column("output")
    for name in next(iter(results.values())):
        table.add_column(name)
    for output, times in results.items():
        reused = times["reused"].median
        table.add_row(
            output,
            *(
                f"{Times(*(1e3 * s for s in t)).text(1)} {t.median / reused:.2f}x"
                for t in times.values()
            ),
        )
    return table
