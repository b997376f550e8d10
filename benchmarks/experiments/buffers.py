"""FP8 to BF16, one thread: where values are put before they are written to a file on tmpfs.

- *reused*: one window for all.
- *fresh*, *zeroed*: `np.empty` and `np.zeros` for every window.
- *whole tensor*: `np.empty` and `np.zeros` of the whole matrix, decoded and written window by
  window, as a program does that holds tensors.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window
from benchmarks.cases import CASES
from benchmarks.end_to_end import COLUMNS, ROWS
from benchmarks.measure import Times, interleave, scratch
from benchmarks.opened import Opened, opened

MATRICES = 6
REPETITIONS = 7


def run(console: Console) -> Any:
    """Six matrices a repetition, with and without the write."""
    folder = scratch(None, 20 * ROWS * COLUMNS)
    results = {}
    try:
        with opened(CASES["fp8-e4m3 block"], folder, ROWS, COLUMNS) as found:
            for where, out in (("decode only", None), ("decode and pwrite", folder / "values")):
                works = {name: _work(found, put, out) for name, put in PLACES.items()}
                results[where] = interleave(works, REPETITIONS)
    finally:
        shutil.rmtree(folder)
    console.print(_table(results))
    return {where: {n: list(t) for n, t in times.items()} for where, times in results.items()}


Place = Callable[[int, int], Callable[[int, int], Any]]


def reused(total: int, window: int) -> Callable[[int, int], Any]:
    values = np.empty(window, np.uint16)
    return lambda first, elems: values[:elems]


def fresh(total: int, window: int) -> Callable[[int, int], Any]:
    return lambda first, elems: np.empty(elems, np.uint16)


def zeroed(total: int, window: int) -> Callable[[int, int], Any]:
    return lambda first, elems: np.zeros(elems, np.uint16)


def whole_fresh(total: int, window: int) -> Callable[[int, int], Any]:
    values = np.empty(total, np.uint16)
    return lambda first, elems: values[first : first + elems]


def whole_zeroed(total: int, window: int) -> Callable[[int, int], Any]:
    values = np.zeros(total, np.uint16)
    return lambda first, elems: values[first : first + elems]


PLACES: dict[str, Place] = {
    "reused": reused,
    "fresh": fresh,
    "zeroed": zeroed,
    "whole tensor, fresh": whole_fresh,
    "whole tensor, zeroed": whole_zeroed,
}


def _work(found: Opened, place: Place, out: Path | None) -> Callable[[], None]:
    tensor, size = found.step.tensor, found.step.window_units

    def work() -> None:
        fd = -1 if out is None else os.open(out, os.O_RDWR | os.O_CREAT)
        for _ in range(MATRICES):
            get = place(tensor.elems, size * tensor.unit_elems)
            for start in range(0, tensor.units, size):
                window = Window(start, min(start + size, tensor.units))
                first = start * tensor.unit_elems
                values = get(first, (window.stop - start) * tensor.unit_elems)
                found.decode(found.views(window), found.params, window, values)
                if fd >= 0:
                    os.pwrite(fd, values, 2 * first)
        if fd >= 0:
            os.close(fd)

    return work


def _table(results: dict[str, dict[str, Times]]) -> Table:
    elems = MATRICES * ROWS * COLUMNS
    table = Table(title=f"{elems / 1e6:.0f} M elements")
    for head in ("", "values in", "seconds (range)", "million elements/s", "x reused"):
        table.add_column(head)
    for where, times in results.items():
        for name, t in times.items():
            ratio = t.median / times["reused"].median
            rate = f"{elems / t.median / 1e6:,.0f}"
            table.add_row(where, name, t.text(3), rate, f"{ratio:.2f}")
    return table
