"""Input by `pread` into a reused buffer against a memory map; FP8 to BF16, nothing written.

Every repetition opens (and maps) the file anew; its pages are in the page cache throughout.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window, decoder
from anamnesis.limits import GiB, MiB
from benchmarks.cases import CASES
from benchmarks.measure import Times, interleave, scratch

COLUMNS = 4096
WINDOW_BYTES = MiB // 2  # of codes: 1 MiB of output
REPETITIONS = 7

Decode = Callable[[Any, Any], None]


def run(console: Console, gib: float = 1) -> Any:
    """On memory-backed storage and on the temporary folder's file system, one and two threads."""
    rows = int(gib * GiB) // COLUMNS // 256 * 256
    layer = CASES["fp8-e4m3 block"].make(1024, COLUMNS)
    codes, scale = (e.array for e in layer.entries)
    grid = np.ascontiguousarray(scale.reshape(1, 8, -1))
    params = {"block": (128, 128), "rows": 1024, "scale": grid}
    kernel = decoder("fp8-e4m3")

    def decode(view: Any, out: Any) -> None:
        kernel({"payload": view.reshape(-1, COLUMNS)}, params, Window(0, len(view) // COLUMNS), out)

    results = {}
    for place in dict.fromkeys((scratch("/dev/shm", 2 * GiB), scratch(_disk(), 2 * GiB))):
        kind = "tmpfs" if str(place).startswith("/dev/shm") else "disk"
        path = place / "codes"
        try:
            with path.open("wb") as file:
                for _ in range(rows // 1024):
                    file.write(codes)
            for threads in (1, 2):
                works = {name: _work(read, path, decode, threads) for name, read in READS.items()}
                times = interleave(works, REPETITIONS)
                results[f"{kind}, {threads} thread(s)"] = times
        finally:
            shutil.rmtree(place)
    console.print(_table(results, rows * COLUMNS))
    return {where: {n: list(t) for n, t in times.items()} for where, times in results.items()}


def by_pread(path: Path, spans: list[int], decode: Decode, out: Any) -> None:
    buffer = np.empty(WINDOW_BYTES, np.uint8)
    fd = os.open(path, os.O_RDONLY)
    for at in spans:
        os.preadv(fd, [buffer], at)
        decode(buffer, out)
    os.close(fd)


def by_map(path: Path, spans: list[int], decode: Decode, out: Any, advice: int = -1) -> None:
    fd = os.open(path, os.O_RDONLY)
    mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    if advice >= 0:
        mapped.madvise(advice)
    whole = np.frombuffer(mapped, np.uint8)
    for at in spans:
        decode(whole[at : at + WINDOW_BYTES], out)
    del whole
    mapped.close()


def by_map_sequential(path: Path, spans: list[int], decode: Decode, out: Any) -> None:
    by_map(path, spans, decode, out, mmap.MADV_SEQUENTIAL)


READS = {"pread": by_pread, "map": by_map, "map, MADV_SEQUENTIAL": by_map_sequential}


def _work(read: Any, path: Path, decode: Decode, threads: int) -> Callable[[], None]:
    spans = list(range(0, path.stat().st_size, WINDOW_BYTES))
    share = -(-len(spans) // threads)
    outs = [np.empty(WINDOW_BYTES, np.uint16) for _ in range(threads)]

    def work() -> None:
        running = [
            threading.Thread(
                target=read, args=(path, spans[i * share : (i + 1) * share], decode, outs[i])
            )
            for i in range(threads)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return work


def _disk() -> str:
    """A folder that is not in memory, if the current one is not."""
    return os.environ.get("TMPDIR", "/var/tmp")


def _table(results: dict[str, dict[str, Times]], elems: int) -> Table:
    table = Table(title=f"{elems / 1e6:.0f} M codes")
    for head in ("storage", "input", "seconds (range)", "million elements/s", "x pread"):
        table.add_column(head)
    for where, times in results.items():
        for name, t in times.items():
            ratio = t.median / times["pread"].median
            rate = f"{elems / t.median / 1e6:,.0f}"
            table.add_row(where, name, t.text(3), rate, f"{ratio:.2f}")
    return table
