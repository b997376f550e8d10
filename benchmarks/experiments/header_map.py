"""Headers of 11 GB files that are all holes: by map, and by `pread`.

*raw* is JSON or the bytes alone, so that the way in is all that differs: `json.loads` of the
safetensors header, and a sum over the GGUF header's bytes. *package* is `open_container`.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.limits import Limits
from anamnesis.readers import open_container
from benchmarks.cases import CASES
from benchmarks.measure import Times, interleave, scratch
from benchmarks.models import gguf_header, safetensors_header
from benchmarks.startup import SPARSE_BYTES, write_sparse

VOCABULARY = [f"token-{n:06d}" for n in range(150_000)]
REPETITIONS = 15


def run(console: Console) -> Any:
    """A few hundred large tensors, and tens of thousands of small ones."""
    folder = scratch(None, 0)
    results = {}
    try:
        for rows, columns in ((11008, 4096), (512, 512)):
            for case in ("fp8-e4m3 block", "gguf-q4-k"):
                layer = CASES[case].make(rows, columns)
                layers = SPARSE_BYTES // layer.nbytes
                gguf = layer.container == "gguf"
                header = (
                    gguf_header(layer, layers, VOCABULARY)
                    if gguf
                    else safetensors_header(layer, layers)
                )
                path = write_sparse(folder / f"model.{layer.container}", layer, layers, VOCABULARY)
                use = _sum if gguf else _parse
                works = {
                    "map": _by_map(path, len(header), use),
                    "pread": _by_pread(path, len(header), use),
                    "package": lambda path=path: open_container(str(path), Limits()),
                }
                tensors = layers * len(layer.entries)
                name = f"{layer.container}, {tensors:,} tensors, {len(header):,} bytes"
                results[name] = interleave(works, REPETITIONS if tensors < 1000 else 5)
                path.unlink()
    finally:
        shutil.rmtree(folder)
    console.print(_table(results))
    return {name: {n: list(t) for n, t in times.items()} for name, times in results.items()}


def _parse(header: Any) -> None:
    json.loads(bytes(header[8:]))


def _sum(header: Any) -> None:
    np.frombuffer(header, np.uint8).sum()


def _by_map(path: Path, nbytes: int, use: Callable[[Any], None]) -> Callable[[], None]:
    def work() -> None:
        fd = os.open(path, os.O_RDONLY)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            os.close(fd)
            view = memoryview(mapped)[:nbytes]
            use(view)
            view.release()

    return work


def _by_pread(path: Path, nbytes: int, use: Callable[[Any], None]) -> Callable[[], None]:
    def work() -> None:
        fd = os.open(path, os.O_RDONLY)
        buffer = bytearray(nbytes)
        os.preadv(fd, [buffer], 0)
        os.close(fd)
        use(memoryview(buffer))

    return work


def _table(results: dict[str, dict[str, Times]]) -> Table:
    table = Table(title="Milliseconds (range)")
    table.add_column("header")
    for name in ("map", "pread", "package"):
        table.add_column(name)
    for header, times in results.items():
        cells = [Times(*(1e3 * s for s in t)).text(2) for t in times.values()]
        table.add_row(header, *cells)
    return table
