"""Kernels, one thread, warm buffers: million elements a second, and ratios to a plain copy.

The copy is `np.copyto` of as many elements of the output's dtype, timed in turn with the kernel.
A *window* is what the conversion decodes at a time and fits the cache; *45 M* is a whole matrix
in one call. gguf-py (numpy, one thread) decodes the window to float32 where it has the type.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import ENCODINGS, Window
from benchmarks.cases import CASES, Case
from benchmarks.measure import Neighbours, Times, interleave, keep, scratch
from benchmarks.opened import Opened, opened

ROWS, COLUMNS = 11008, 4096
WINDOW_ELEMS = 512 * 1024
WINDOW_CALLS, WINDOW_REPETITIONS = 8, 25
MATRIX_REPETITIONS = 7
GGUF_PY_REPETITIONS = 3


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
    console.print(_table(results, rows * COLUMNS), others.text())
    if not patterns:
        keep("kernels", results, others)
    return results


def measure(case: Case, folder: Any, rows: int, columns: int) -> dict[str, Any]:
    """One case: windows, the whole matrix, and gguf-py."""
    with opened(case, folder, rows, columns) as found:
        units = found.step.tensor.units
        window = Window(0, min(units, max(1, WINDOW_ELEMS // found.step.tensor.unit_elems)))
        small = _against_copy(found, window, WINDOW_REPETITIONS, WINDOW_CALLS)
        result = {"name": case.name, "target": case.target, "window": small}
        reference = _gguf_py(found, window)
        if reference:
            result["gguf_py"] = reference
        result["matrix"] = _against_copy(found, Window(0, units), MATRIX_REPETITIONS, 1)
    return result


def _against_copy(
    found: Opened, window: Window, repetitions: int, calls: int
) -> dict[str, float | list[float]]:
    elems = min(window.stop * found.step.tensor.unit_elems, found.step.tensor.elems)
    views = found.views(window)
    out, source, target = (np.ones(elems, found.kind) for _ in range(3))
    took = interleave(
        {
            "kernel": lambda: found.decode(views, found.params, window, out),
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


def _rates(elems: int, times: Times) -> list[float]:
    return [elems / s / 1e6 for s in (times.median, times.high, times.low)]


def _gguf_py(found: Opened, window: Window) -> float | None:
    """Million elements a second of gguf-py, or None without it or for a type it lacks."""
    row = ENCODINGS[found.step.tensor.encoding]
    if row.ggml_type < 0:
        return None
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType(row.ggml_type)
        blocks = found.views(window)["payload"]
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            dequantize(blocks[:1], kind)
            took = interleave({"": lambda: dequantize(blocks, kind)}, GGUF_PY_REPETITIONS)[""]
    except (ImportError, ValueError, NotImplementedError):
        return None
    return len(blocks) * row.block_elems / took.median / 1e6


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or p in name for p in patterns)


def _table(results: Sequence[dict[str, Any]], elems: int) -> Table:
    table = Table(title="Kernels, one thread: million elements a second")
    table.add_column("case")
    heads = ("window", "range", "x copy", f"{elems / 1e6:.0f} M", "range", "x copy", "target")
    for head in (*heads, "x gguf-py"):
        table.add_column(head, justify="right")
    for result in results:
        cells = []
        for size in ("window", "matrix"):
            low, high = result[size]["mel_s_range"]
            rate, ratio = result[size]["mel_s"], result[size]["to_copy"]
            cells += [f"{rate:,.0f}", f"{low:,.0f}-{high:,.0f}", f"{ratio:.2f}"]
        ahead = result["target"] and result["matrix"]["mel_s"] >= result["target"]
        target = f"{result['target']:,}{'' if ahead else ' !'}" if result["target"] else ""
        other = result.get("gguf_py")
        times = f"{result['window']['mel_s'] / other:,.0f}" if other else ""
        table.add_row(result["name"], *cells, target, times)
    return table
