"""FP8 with one scale, 4096 x 11008: one pass against chunks through a float32 scratch.

- *one pass*: the package's kernel, codes to BF16.
- *scratch of N*: the same kernel to float32 into a scratch of N elements, then the package's
  rounding of the scratch to BF16.
- *whole*: the same with a scratch as large as the matrix.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window, decoder
from benchmarks.cases import CASES
from benchmarks.measure import Times, interleave, scratch
from benchmarks.opened import Opened, opened

ROWS, COLUMNS = 4096, 11008
CHUNK_ROWS = (1, 8, 64, 512, ROWS)
REPETITIONS = 9


def run(console: Console) -> Any:
    """All of them in turn, one thread, bits compared first."""
    folder = scratch(None, 4 * ROWS * COLUMNS)
    try:
        with opened(CASES["fp8-e4m3 tensor"], folder, ROWS, COLUMNS) as found:
            everything = Window(0, found.step.tensor.units)
            views = dict(found.views(everything))
            expected, out = (np.ones(ROWS * COLUMNS, np.uint16) for _ in range(2))
            found.decode(views, found.params, everything, expected)
            works: dict[str, Callable[[], Any]] = {
                "one pass": lambda: found.decode(views, found.params, everything, out)
            }
            works |= {_name(rows): _chunked(found, views, rows, out) for rows in CHUNK_ROWS}
            source = np.ones_like(out)
            works["copy of the output"] = lambda: np.copyto(out, source)
            for name, work in works.items():
                out[:] = 0
                work()
                if name != "copy of the output" and not np.array_equal(out, expected):
                    raise ArithmeticError(f"{name}: other bits")
            times = interleave(works, REPETITIONS)
    finally:
        shutil.rmtree(folder)
    console.print(_table(times))
    return {name: list(t) for name, t in times.items()}


def _name(rows: int) -> str:
    nbytes = 4 * rows * COLUMNS
    size = f"{nbytes / 2**20:.1f} MiB" if nbytes >= 2**20 else f"{nbytes / 2**10:.0f} KiB"
    return f"scratch of {'the whole, ' if rows == ROWS else ''}{size}"


def _chunked(found: Opened, views: Any, rows: int, out: Any) -> Callable[[], Any]:
    tensor = found.step.tensor
    per_row = tensor.units // ROWS
    scratch_ = np.ones(rows * COLUMNS, np.float32)
    scratch_bytes = scratch_.view(np.uint8).reshape(rows, 4 * COLUMNS)
    round_ = decoder("f32")

    def work() -> None:
        for first in range(0, ROWS, rows):
            here = slice(first * per_row, (first + rows) * per_row)
            part = {role: view[here] for role, view in views.items()}
            found.decode(part, found.params, Window(here.start, here.stop), scratch_)
            target = out[first * COLUMNS : (first + rows) * COLUMNS]
            round_({"payload": scratch_bytes}, {}, Window(0, rows), target)

    return work


def _table(times: dict[str, Times]) -> Table:
    table = Table(title=f"{ROWS} x {COLUMNS} codes, one thread")
    for head in ("way", "ms (range)", "million elements/s", "x one pass", "x copy"):
        table.add_column(head)
    one, copy = times["one pass"].median, times["copy of the output"].median
    for name, t in times.items():
        ms = Times(*(1e3 * s for s in t)).text(1)
        rate = f"{ROWS * COLUMNS / t.median / 1e6:,.0f}"
        table.add_row(name, ms, rate, f"{t.median / one:.2f}", f"{t.median / copy:.2f}")
    return table
