"""The guard of `make bench-check`: what a slower kernel cannot hide, on any machine, at any load.

- Instructions an element, counted (`instructions.py`), may grow by 30 % over what is recorded.
- Speed on a window as part of a copy's in the same run, the best of several rounds, may fall to
  half of what is recorded. Where it is recorded for another processor it is shown and not judged.

`--record` makes today's figures the expected ones; they are in check.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window
from benchmarks import instructions
from benchmarks.cases import CASES
from benchmarks.kernels import _matches
from benchmarks.measure import interleave, machine, scratch
from benchmarks.opened import opened

EXPECTED = Path(__file__).with_name("check.json")
MORE_INSTRUCTIONS = 1.3
LESS_SPEED = 0.5
ROWS, COLUMNS = 128, 4096
ROUNDS = 12


def run(console: Console, patterns: Sequence[str], record: bool) -> int:
    """Print a table; the exit code, 1 when something became slow."""
    names = [n for n in CASES if not patterns or _matches(n, patterns)]
    why = instructions.unavailable()
    with console.status("instructions"):
        counts = {} if why else instructions.count(names)
    with console.status("speed"):
        speeds = {name: speed(name) for name in names}
    found = {n: {"instructions": counts.get(n), "to_copy": speeds[n]} for n in names}
    if record:
        _record(found)
        console.print(f"{len(found)} cases recorded in {EXPECTED}")
        return 0
    expected = json.loads(EXPECTED.read_text())
    judged = {
        name: judge(found[name], expected["cases"].get(name, {}), _comparable(expected))
        for name in names
    }
    console.print(_table(found, expected["cases"], judged))
    if why:
        console.print(f"instructions were not counted: {why}")
    if _versions() != expected["versions"]:
        console.print(f"recorded with {expected['versions']}, here {_versions()}")
    slow = [name for name, words in judged.items() if words]
    new = [name for name in names if name not in expected["cases"]]
    if new:
        console.print(f"not recorded yet: {', '.join(new)}; see --record")
    console.print(f"{len(slow)} of {len(names)} kernels became slow" if slow else "all as recorded")
    return 1 if slow else 0


def speed(name: str) -> float:
    """The best of a kernel's rounds against the best of a copy's, one window, one thread."""
    folder = scratch(None, 0)
    try:
        with opened(CASES[name], folder, ROWS, COLUMNS) as found:
            tensor = found.step.tensor
            window = Window(0, tensor.units)
            views = found.views(window)
            out, source, target = (np.ones(tensor.elems, found.kind) for _ in range(3))
            took = interleave(
                {
                    "kernel": lambda: found.decode(views, found.params, window, out),
                    "copy": lambda: np.copyto(target, source),
                },
                ROUNDS,
                calls=4,
            )
    finally:
        shutil.rmtree(folder)
    return took["copy"].low / took["kernel"].low


def judge(
    found: Mapping[str, float | None], expected: Mapping[str, float | None], comparable: bool
) -> str:
    """What is wrong with a kernel, in a few words; nothing when all is well."""
    words = []
    counted, before = found["instructions"], expected.get("instructions")
    if counted is not None and before is not None and counted > before * MORE_INSTRUCTIONS:
        words.append(f"{counted / before - 1:+.0%} instructions")
    ratio, usual = found["to_copy"], expected.get("to_copy")
    if comparable and ratio is not None and usual is not None and ratio < usual * LESS_SPEED:
        words.append(f"{ratio / usual:.2f} of its speed")
    return ", ".join(words)


def _record(found: Mapping[str, Any]) -> None:
    """Keep the cases that were not measured now, unless they are gone."""
    cases = json.loads(EXPECTED.read_text())["cases"] if EXPECTED.exists() else {}
    cases = {n: c for n, c in {**cases, **found}.items() if n in CASES}
    document = {
        "processor": machine()["processor"],
        "target": instructions.TARGET["NUMBA_CPU_NAME"],
        "versions": _versions(),
        "cases": dict(sorted(cases.items())),
    }
    EXPECTED.write_text(json.dumps(document, indent=1) + "\n")


def _comparable(expected: Mapping[str, Any]) -> bool:
    return bool(expected["processor"] == machine()["processor"])


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numba", "llvmlite")}


def _table(
    found: Mapping[str, Any], expected: Mapping[str, Any], judged: Mapping[str, str]
) -> Table:
    target = instructions.TARGET["NUMBA_CPU_NAME"]
    table = Table(
        title=f"Instructions an element ({target}), and speed against a copy's (this CPU)"
    )
    table.add_column("case")
    for head in ("instructions", "recorded", "x copy", "recorded"):
        table.add_column(head, justify="right")
    table.add_column("")
    for name, figures in found.items():
        before = expected.get(name, {})
        cells = []
        for key in ("instructions", "to_copy"):
            for value in (figures[key], before.get(key)):
                cells.append("" if value is None else f"{value:.2f}")
        table.add_row(name, *cells, f"[red]{judged[name]}[/red]" if judged[name] else "")
    return table
