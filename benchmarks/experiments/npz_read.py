"""A 302 MB float32 array out of an NPZ file: zeroed buffer against read-into, and others.

- *zeroed, read into*, *empty, read into*: `np.zeros` or `np.empty` of the whole array, filled by
  `readinto` of the archive's entry at its offset.
- *bytes, then view*: `read` makes the bytes, `np.frombuffer` looks at them.
- *np.load*: numpy's own way, through zipfile.
- *package*: `open_model(path)[name].to_numpy()`, with the entry's CRC-32 checked.
- *1 MiB, reused*: what the conversion does; the array is never whole in memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import anamnesis
from anamnesis.limits import MiB
from anamnesis.readers import open_container
from benchmarks.files import SHAPE, npz
from benchmarks.measure import Times, interleave, scratch

REPETITIONS = 7
NBYTES = 4 * SHAPE[0] * SHAPE[1]


def run(console: Console) -> Any:
    """All of them in turn, in memory, every page of the file in the cache."""
    folder = scratch(None, 2 * NBYTES)
    try:
        path = npz(folder)
        at = _payload(path)
        works = {
            "zeroed, read into": lambda: _into(path, at, np.zeros(SHAPE, np.float32)),
            "empty, read into": lambda: _into(path, at, np.empty(SHAPE, np.float32)),
            "bytes, then view": lambda: _bytes(path, at),
            "np.load": lambda: np.load(path)["weight"],
            "package": lambda: anamnesis.open_model(path)["weight"].to_numpy(),
            "1 MiB, reused": lambda: _windows(path, at),
        }
        expected = np.load(path)["weight"]
        for name in ("zeroed, read into", "bytes, then view", "package"):
            found = np.asarray(works[name]()).reshape(SHAPE)
            if not np.array_equal(found.view(np.uint32), expected.view(np.uint32)):
                raise ArithmeticError(f"{name}: other bits")
        del expected, found
        times = interleave(works, REPETITIONS)
    finally:
        shutil.rmtree(folder)
    console.print(_table(times))
    return {name: list(t) for name, t in times.items()}


def _payload(path: Path) -> int:
    """Where the array's bytes begin: this writer stores entries as they are."""
    container = open_container(str(path), anamnesis.Limits())
    (stored,) = container.stored.values()
    return int(stored.offset)


def _into(path: Path, at: int, array: Any) -> Any:
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        view, done = memoryview(array).cast("B"), 0
        while done < len(view):
            done += file.readinto(view[done:]) or 0
    return array


def _bytes(path: Path, at: int) -> Any:
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        return np.frombuffer(file.read(NBYTES), np.float32)


def _windows(path: Path, at: int) -> None:
    buffer = bytearray(MiB)
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        rest = NBYTES
        while rest:
            rest -= file.readinto(memoryview(buffer)[: min(MiB, rest)]) or rest


def _table(times: dict[str, Times]) -> Table:
    table = Table(title=f"{NBYTES / 1e6:.0f} MB of float32 from an NPZ file in memory")
    for head in ("way", "ms (range)", "GB/s", "x read into zeroed"):
        table.add_column(head)
    zeroed = times["zeroed, read into"].median
    for name, t in times.items():
        ms = Times(*(1e3 * s for s in t)).text(0)
        table.add_row(name, ms, f"{NBYTES / t.median / 1e9:.2f}", f"{t.median / zeroed:.2f}")
    return table
