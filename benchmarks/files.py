"""Arrays that only change their container, and output on a disk, against `cp`.

NPZ and .pth of 302 MB of float32 become safetensors: nothing is decoded, but an archive's CRC-32s
are checked and checksums are made, which `cp` does not do. On a disk both sync what they wrote.
*loop* is a call in this process, *command* `amn remember` with its start-up.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import anamnesis
from anamnesis.limits import GiB, MiB
from benchmarks import commands
from benchmarks.cases import CASES
from benchmarks.end_to_end import COLUMNS, ROWS, repeated
from benchmarks.measure import Neighbours, Times, keep, scratch, timed
from benchmarks.models import write_model

SHAPE = (7550, 10_000)  # 302 MB
THREADS = 2
GOAL = 1.1  # times cp


@dataclass(frozen=True, slots=True)
class File:
    """`make` writes an input into a folder, or gives None where what it needs is missing."""

    name: str
    on_disk: bool
    make: Callable[[Path], Path | None]


def _numbers() -> Any:
    return np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)


def npz(folder: Path) -> Path:
    np.savez(folder / "array.npz", weight=_numbers())
    return folder / "array.npz"


def pth(folder: Path) -> Path | None:
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    rows = torch.from_numpy(_numbers()).chunk(10)
    torch.save({f"layers.{n}.weight": row.clone() for n, row in enumerate(rows)}, folder / "a.pth")
    return folder / "a.pth"


def fp8(folder: Path) -> Path:
    layer = CASES["fp8-e4m3 block"].make(ROWS, COLUMNS)
    return write_model(folder, layer, int(GiB // 2 // layer.nbytes))


FILES = (
    File("NPZ to safetensors", False, npz),
    File(".pth to safetensors", False, pth),
    File("NPZ to safetensors", True, npz),
    File("FP8 to BF16 safetensors", True, fp8),
)


def run(console: Console, repeat: int, disk: str | None = None) -> list[dict[str, Any]]:
    """Measure, print a table, keep the results."""
    results, others = [], Neighbours()
    for file in FILES:
        with console.status(file.name):
            folder = scratch(disk or tempfile.gettempdir() if file.on_disk else None, 4 * GiB)
            try:
                path = file.make(folder)
                if path is not None:
                    results.append(measure(file, path, folder / "out.safetensors", repeat))
            finally:
                shutil.rmtree(folder)
    console.print(_table(results), others.text())
    keep("files", results, others)
    return results


def measure(file: File, path: Path, out: Path, repeat: int) -> dict[str, Any]:
    """One input: the conversion, and `cp` of a file as large as its output, in turn."""
    anamnesis.remember(path, out, threads=THREADS)
    original = out.rename(out.with_name("original"))
    copied = out.with_name("copied")
    copy = ["cp", str(original), str(copied)]
    if file.on_disk:
        copy = ["sh", "-c", 'cp "$0" "$1" && sync "$1"', *copy[1:]]
    for manifest in out.parent.glob(f"*{out.name}*"):
        manifest.unlink()

    def cp() -> dict[str, float]:
        seconds = timed(lambda: subprocess.run(copy, check=True))
        copied.unlink()
        return {"wall": seconds}

    def loop() -> dict[str, float]:
        return {"wall": timed(lambda: anamnesis.remember(path, out, threads=THREADS))}

    works: dict[str, Callable[[], dict[str, float]]] = {
        "cp": cp,
        "loop": loop,
        "command": lambda: commands.remember(path, out, THREADS),
    }
    found = repeated(works, out, repeat)
    times = {name: Times.of([one["wall"] for one in many]) for name, many in found.items()}
    return {
        "name": file.name,
        "on_disk": file.on_disk,
        "goal": GOAL,
        "in_bytes": path.stat().st_size,
        "out_bytes": original.stat().st_size,
        "seconds": {name: list(t) for name, t in times.items()},
        "command_startup": Times.of([one["startup"] for one in found["command"]]).median,
        "loop_to_cp": times["loop"].median / times["cp"].median,
        "command_to_cp": times["command"].median / times["cp"].median,
    }


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="Against cp of a file as large as the output, seconds (range)")
    for head in ("", "MiB out", "cp", "loop", "x cp", "command", "x cp", "of which start-up"):
        table.add_column(head, justify="right" if head else "left")
    for r in results:
        cp, loop, command = (Times(*r["seconds"][n]).text() for n in ("cp", "loop", "command"))
        table.add_row(
            r["name"] + (", disk" if r["on_disk"] else ""),
            f"{r['out_bytes'] / MiB:,.0f}",
            cp,
            loop,
            f"{r['loop_to_cp']:.2f}",
            command,
            f"{r['command_to_cp']:.2f}",
            f"{r['command_startup']:.2f}",
        )
    return table
