"""GGUF to a Hugging Face model: what moving elements costs over the I/O of the same bytes.

- *floor*: the reads and writes of the same file's conversion under the names that it has, which
  moves nothing (`floor.py`).
- *plain*: that conversion; *moved*: the conversion under Hugging Face's names.

A Llama's queries are permuted by rows, GPT-2's matrices are transposed. The three alternate; on a
disk, the file is taken out of memory before each.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.limits import GiB, MiB
from anamnesis.names.open import open_named
from anamnesis.pipeline.plan import Plan, Spec, make_plan
from anamnesis.readers.schemes.base import Options
from benchmarks.end_to_end import convert, undisturbed
from benchmarks.floor import Floor
from benchmarks.measure import Neighbours, Times, keep, scratch, timed


@dataclass(frozen=True, slots=True)
class Moved:
    """A file of one kind of tensor, in float16, and what its loop may take of the floor."""

    architecture: str
    tensor: str
    shape: tuple[int, int]
    goal: float
    on_disk: bool = False


ROWS = {
    "permuted": Moved("llama", "attn_q", (4096, 4096), 1.15),
    "permuted, disk": Moved("llama", "attn_q", (4096, 4096), 1.15, on_disk=True),
    "transposed": Moved("gpt2", "ffn_up", (8192, 2048), 1.3),
    "transposed, disk": Moved("gpt2", "ffn_up", (8192, 2048), 1.3, on_disk=True),
}


def run(console: Console, gib: float, folder: str | None, threads: int, repeat: int) -> None:
    """Measure both, print a table, keep the results."""
    table = Table(title=f"GGUF to Hugging Face, {gib} GiB of F16, {threads} threads")
    for head in ("", "floor s", "plain s", "moved s", "plain x floor", "moved x floor", "goal"):
        table.add_column(head, justify="right" if head else "left")
    others, results = Neighbours(), []
    for name, row in ROWS.items():
        found = measure(row, gib, folder, threads, repeat)
        ratios = [found[work].median / found["floor"].median for work in ("plain", "moved")]
        results.append({"row": name, "goal": row.goal, **found})
        seconds = [found[work].text() for work in ("floor", "plain", "moved")]
        table.add_row(name, *seconds, *(f"{ratio:.2f}" for ratio in ratios), f"{row.goal}")
    console.print(table, others.text())
    keep("names", results, others)


def measure(
    row: Moved, gib: float, folder: str | None, threads: int, repeat: int
) -> dict[str, Times]:
    """One file, `repeat` times after a round that compiles; everything written is removed."""
    if row.on_disk:
        folder = folder or tempfile.gettempdir()
    place = scratch(folder, int(2.2 * gib * GiB) + 256 * MiB)
    try:
        path, out = _write(place / "model.gguf", row, gib), place / "out.safetensors"
        cold = path if row.on_disk else None
        plain, moved = (_plan(path, out, names, threads) for names in ("stored", "hf"))
        floor = Floor(plain, out, threads)
        works: dict[str, Callable[[], Any]] = {
            "floor": floor.run,
            "plain": lambda: convert(plain, threads),
            "moved": lambda: convert(moved, threads),
        }
        found: dict[str, list[float]] = {name: [] for name in works}
        for repetition in range(repeat + 1):
            for name, work in works.items():
                one = undisturbed(partial(_seconds, work), out, cold)
                if repetition:
                    found[name].append(one["wall"])
    finally:
        shutil.rmtree(place)
    return {name: Times.of(seconds) for name, seconds in found.items()}


def _seconds(work: Callable[[], Any]) -> dict[str, float]:
    return {"wall": timed(work)}


def _plan(path: Path, out: Path, names: str, threads: int) -> Plan:
    options = Options(names=names)  # type: ignore[arg-type]
    model = open_named(str(path), options)
    spec = Spec(str(out), dtype="f16", passthrough="keep")
    return make_plan(model, spec, memory_bytes=8 * GiB, threads=threads)


def _write(path: Path, row: Moved, gib: float) -> Path:
    from gguf import GGUFWriter

    values = np.random.default_rng(1).standard_normal(row.shape).astype(np.float16)
    layers = max(1, int(gib * GiB / values.nbytes))
    writer = GGUFWriter(str(path), row.architecture)
    writer.add_block_count(layers)
    writer.add_embedding_length(row.shape[1])
    writer.add_head_count(32)
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.{row.tensor}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
