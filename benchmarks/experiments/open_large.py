"""Opening 11 GB files, all holes, to know what is in them: reading them against the header only.

- *read all*: the file through a buffer of 1 MiB, as a loader does that reads first and asks then.
- *header*: the package's `open_container`, which checks it.
- *safe_open*, *GGUFReader*: the format's own libraries, listing names; both map the file.

Holes are the kindest case for reading: no device is behind them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from anamnesis.limits import Limits, MiB
from anamnesis.readers import open_container
from benchmarks.measure import Times, interleave, scratch
from benchmarks.startup import SPARSE_BYTES, bytes_read, sparse

REPETITIONS, READ_REPETITIONS = 15, 3


def run(console: Console) -> Any:
    """A safetensors and a GGUF file of a few hundred tensors."""
    folder = scratch(None, 0)
    results = {}
    try:
        for case in ("fp8-e4m3 block", "gguf-q4-k"):
            path = sparse(case, folder)
            works: dict[str, Callable[[], Any]] = {
                "header": lambda path=path: open_container(str(path), Limits())
            }
            works |= _libraries(path)
            times = interleave(works, REPETITIONS)
            times |= interleave({"read all": lambda path=path: _read(path)}, READ_REPETITIONS)
            tensors, nbytes = bytes_read(path)
            name = f"{path.suffix[1:]}, {tensors} tensors, {nbytes:,} bytes of header"
            results[name] = times
            path.unlink()
    finally:
        shutil.rmtree(folder)
    console.print(_table(results))
    return {name: {n: list(t) for n, t in times.items()} for name, times in results.items()}


def _read(path: Path) -> None:
    fd, buffer, at = os.open(path, os.O_RDONLY), bytearray(MiB), 0
    while got := os.preadv(fd, [buffer], at):
        at += got
    os.close(fd)


def _libraries(path: Path) -> dict[str, Callable[[], Any]]:
    try:
        if path.suffix == ".gguf":
            from gguf import GGUFReader

            return {"GGUFReader": lambda: [t.name for t in GGUFReader(path).tensors]}
        from safetensors import safe_open

        def names() -> Any:
            with safe_open(path, "numpy") as file:
                return list(file.keys())

        return {"safe_open": names}
    except ImportError:
        return {}


def _table(results: dict[str, dict[str, Times]]) -> Table:
    table = Table(title=f"{SPARSE_BYTES / 1e9:.0f} GB of holes, milliseconds (range)")
    for head in ("file", "way", "ms (range)", "x header"):
        table.add_column(head)
    for file, times in results.items():
        for name, t in times.items():
            ms = Times(*(1e3 * s for s in t)).text(2)
            table.add_row(file, name, ms, f"{t.median / times['header'].median:,.1f}")
    return table
