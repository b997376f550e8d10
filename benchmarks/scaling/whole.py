"""Whole conversions of models without holes: on the disk once, in memory to see what a GB takes."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import patience, scratch
from benchmarks.models import Entry, Layer, write_model
from benchmarks.scaling.processes import watched

ROWS, COLUMNS = 11008, 4096
SHARD_BYTES = 1e9
# An FP8 matrix, then a BF16 one of 3/4 of its rows: 40 % of the bytes are FP8, and 1.4 times as
# many come out as go in.
DENSE_ROWS = ROWS * 3 // 4
GROWTH = 2.45  # input and output on the disk, for each byte of input


def in_memory() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def on_disk(gb: float, folder: str | None, memory: str) -> dict[str, Any]:
    """Convert so much input, then verify the output; the input is gone by then."""
    place = scratch(folder or tempfile.gettempdir(), int(gb * GROWTH * 1e9))
    try:
        stored = write_shards(place / "model", gb)
        os.sync()
        job = _job(place, "threads", 2, memory)
        results: dict[str, Any] = {"stored_bytes": stored, "memory": memory, "threads": 2}
        results["shards"] = len(list((place / "model").iterdir()))
        patience.wait()
        results["run"] = watched(["run", "--quiet", str(job)])
        shutil.rmtree(place / "model")
        results["verify"] = watched(["verify", str(place / "out")])
        results["out_bytes"] = sum(p.stat().st_size for p in (place / "out").iterdir())
    finally:
        shutil.rmtree(place)
    return results


def gigabyte_costs(gb: float, repeat: int) -> dict[str, Any]:
    """Seconds of whole runs by every executor, start-up included, and of one with little to do."""
    place = scratch(in_memory(), int(gb * GROWTH * 1e9))
    results: dict[str, Any] = {}
    try:
        results["stored_bytes"] = write_shards(place / "model", gb)
        write_shards(place / "small", 1e-9)
        for name, executor, threads in (
            ("serial", "serial", 1),
            ("threads", "threads", 2),
            ("distributed", "distributed", 2),
        ):
            runs: dict[str, list[dict[str, Any]]] = {"model": [], "small": []}
            for _ in range(repeat):
                for source, found in runs.items():
                    job = _job(place, executor, threads, "512MiB", source)
                    patience.wait()
                    found.append(watched(["run", "--quiet", str(job)]))
                    out = place / "out"
                    results[f"{source}_bytes"] = sum(p.stat().st_size for p in out.iterdir())
                    shutil.rmtree(out)
                    Path(f"{out}.anamnesis.json").unlink()
            results[name] = {
                "threads": threads,
                "seconds": statistics.median(r["seconds"] for r in runs["model"]),
                "start_seconds": statistics.median(r["seconds"] for r in runs["small"]),
                "peak_bytes": max(r["peak_bytes"][0] for r in runs["model"]),
            }
    finally:
        shutil.rmtree(place)
    return results


def write_shards(folder: Path, gb: float) -> int:
    """Shards of random bytes, of 1 GB each, FP8 with block scales and BF16; the bytes written."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 0x7F, (ROWS, COLUMNS), dtype=np.uint8)
    scales = rng.random((86, 32), dtype=np.float32)
    dense = rng.integers(0, 0x4000, (DENSE_ROWS, COLUMNS), dtype=np.uint16)
    written, number = 0, 0
    while written < gb * 1e9:
        entries, layers, size = [], 0, 0
        while not size or size < min(SHARD_BYTES, gb * 1e9 - written):
            for suffix, dtype, array in (
                (f"{layers}.weight", "F8_E4M3", codes),
                (f"{layers}.weight_scale_inv", "F32", scales),
                (f"dense{layers}.weight", "BF16", dense),
            ):
                entries.append(Entry(suffix, dtype, array.shape, array))
                size += array.nbytes
            layers += 1
        path = folder / f"model-{number:05d}.safetensors"
        write_model(folder, Layer(entries)).rename(path)
        _rename_tensors(path, number)
        written += size
        number += 1
        codes = np.roll(codes, 7)
    return written


def _rename_tensors(path: Path, number: int) -> None:
    """Every shard was written with the same names; give its own the number, at the same length."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length).replace(b"model.layers.0", b"shard.%08d" % number)
        file.seek(8)
        file.write(header)


def _job(place: Path, executor: str, threads: int, memory: str, source: str = "model") -> Path:
    job = place / "job.yaml"
    job.write_text(
        f"inputs: [{place / source}]\n"
        f"output: {{path: {place / 'out'}, max_shard_size: 1GB}}\n"
        f"run: {{memory: {memory}, executor: {executor}, threads: {threads}}}\n"
    )
    return job
