"""Experiments of docs/performance-experiments.md that can be run again, one file each."""

from __future__ import annotations

from importlib import import_module

from rich.console import Console

from benchmarks.measure import Neighbours, keep

EXPERIMENTS = {
    "buffers": "fresh or zeroed outputs against reused ones",
    "fp8_chunked": "FP8 in one pass and in chunks through a scratch",
    "fp8_table": "BF16 tables against arithmetic for FP8",
    "gguf_outputs": "where GGUF outputs of 2 to 200 MB are put",
    "header_map": "a large header by map and by read",
    "npz_read": "a 302 MB array of an NPZ file: zeroed, empty, as bytes",
    "open_large": "11 GB files read whole against their headers only",
    "pread_mmap": "input by pread and by map",
    "window_size": "windows of 128 KiB to 16 MiB",
}


def run(name: str, console: Console) -> None:
    """Run one, print its tables and keep its figures."""
    console.rule(f"{name}: {EXPERIMENTS[name]}")
    others = Neighbours()
    results = import_module(f"benchmarks.experiments.{name}").run(console)
    console.print(others.text())
    keep(f"experiment-{name}", results, others)
