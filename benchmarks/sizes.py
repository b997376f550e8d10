"""Time and peak memory of a whole command against the size of its model, FP8 with block scales.

Beside it, with torch and safetensors installed, what people write by hand: load the model,
multiply, save it. It holds the model twice at its end.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from anamnesis.limits import GiB, MiB
from benchmarks import commands
from benchmarks.cases import CASES
from benchmarks.end_to_end import COLUMNS, ROWS, undisturbed
from benchmarks.measure import Neighbours, Times, keep, scratch
from benchmarks.models import write_model

SIZES = (0.125, 0.25, 0.5, 1, 2, 4)  # GiB stored
SCRIPT_SIZES = (0.125, 0.25, 0.5, 1)
SCRIPT = """
import sys, torch
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
for name in [n for n in tensors if n.endswith("_scale_inv")]:
    scale = tensors.pop(name)
    weight = tensors[name.removesuffix("_scale_inv")]
    rows, columns = weight.shape
    blocks = weight.to(torch.float32).view(rows // 128, 128, columns // 128, 128)
    values = (blocks * scale[:, None, :, None]).to(torch.bfloat16)
    tensors[name.removesuffix("_scale_inv")] = values.view(rows, columns)
save_file(tensors, sys.argv[2])
"""


def run(console: Console, repeat: int) -> list[dict[str, Any]]:
    """Measure, print a table, keep the results."""
    results, others = [], Neighbours()
    with console.status("sizes"):
        for gib in SIZES:
            results.append(measure(gib, repeat))
    console.print(_table(results), others.text())
    keep("sizes", results, others)
    return results


def measure(gib: float, repeat: int) -> dict[str, Any]:
    """One size; everything written is removed."""
    layer = CASES["fp8-e4m3 block"].make(ROWS, COLUMNS)
    layers = max(1, round(gib * GiB / layer.nbytes))
    folder = scratch(None, int(3.5 * layers * layer.nbytes))
    out = folder / "out.safetensors"
    works: dict[str, Callable[[], dict[str, float]]]
    works = {"command": lambda: commands.remember(path, out, 2)}
    script = [sys.executable, "-c", SCRIPT]
    if gib in SCRIPT_SIZES and all(map(importlib.util.find_spec, ("torch", "safetensors"))):
        works["torch script"] = lambda: _walled([*script, str(path), str(out)])
    try:
        path = write_model(folder, layer, layers)
        found = {
            name: [undisturbed(work, out) for _ in range(repeat + 1)][1:]
            for name, work in works.items()
        }
    finally:
        shutil.rmtree(folder)
    return {
        "stored_bytes": layers * layer.nbytes,
        "out_bytes": 2 * layers * ROWS * COLUMNS,
        **{
            name: {k: list(Times.of([o[k] for o in many])) for k in ("wall", "peak_bytes")}
            for name, many in found.items()
        },
    }


def _walled(command: list[str]) -> dict[str, float]:
    found = commands.launch(command)
    return {"wall": found["seconds"], "peak_bytes": found["peak_bytes"]}


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="FP8 to BF16, 2 threads, in memory: whole commands")
    for head in ("MiB stored", "amn, s (range)", "peak MiB", "torch script, s (range)", "peak MiB"):
        table.add_column(head, justify="right")
    for result in results:
        cells = [f"{result['stored_bytes'] / MiB:,.0f}"]
        for name in ("command", "torch script"):
            if name in result:
                cells.append(Times(*result[name]["wall"]).text())
                cells.append(f"{result[name]['peak_bytes'][0] / MiB:,.0f}")
        table.add_row(*cells)
    return table
