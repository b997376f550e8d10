"""What a plan, a task and a shard cost besides the work in them."""

from __future__ import annotations

import pickle
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anamnesis.limits import MiB
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.executors import Options
from anamnesis.pipeline.journal import Recipe
from anamnesis.pipeline.plan import Plan, Spec, make_plan
from anamnesis.pipeline.progress import make_progress
from anamnesis.pipeline.run import run_plan
from anamnesis.readers.model import load_model
from benchmarks.measure import patience, timed
from benchmarks.models import Entry, Layer, safetensors_header, write_model
from benchmarks.scaling.processes import cluster, own_peak_bytes
from benchmarks.scaling.whole import COLUMNS, ROWS, in_memory


def plan_costs(count: int) -> dict[str, Any]:
    """Headers, plan and pickled tasks of a synthetic model; in a process of its own."""
    files, layers = 16, -(-count // 32)  # two tasks a tensor of 90 MB
    layer = Layer(
        [
            Entry("weight", "F8_E4M3", (ROWS, COLUMNS), np.empty((ROWS, COLUMNS), np.uint8)),
            Entry("weight_scale_inv", "F32", (86, 32), np.empty((86, 32), np.float32)),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            header = safetensors_header(layer, layers)
            header = header.replace(b"model.layers.", b"mode%02d.layer." % number)
            with open(f"{folder}/model-{number:02d}.safetensors", "wb") as file:
                file.write(header)
                file.truncate(len(header) + layers * layer.nbytes)
        before = own_peak_bytes()
        begin = time.perf_counter()
        model = load_model(folder)
        loaded = time.perf_counter()
        spec = Spec(f"{folder}/out", max_shard_bytes=50_000_000_000)
        plan = make_plan(model, spec, memory_bytes=512 * MiB, threads=2)
        planned = time.perf_counter()
        peak = own_peak_bytes()
        recipe = timed(lambda: Recipe.of(plan))
        sizes = [len(pickle.dumps(replace(t, origin="/x", part="/x/y"))) for t in plan.tasks]
    return {
        "tensors": len(model.tensors),
        "tasks": len(plan.tasks),
        "shards": len(plan.layout.files),
        "out_bytes": plan.out_bytes,
        "headers_seconds": loaded - begin,
        "plan_seconds": planned - loaded,
        "recipe_seconds": recipe,
        "peak_bytes": peak,
        "peak_bytes_before": before,
        "pickled_bytes": [statistics.median(sizes), max(sizes)],
    }


def task_costs(tasks: int, workers: int, repeat: int) -> dict[str, Any]:
    """Microseconds that tasks of 1 KiB take in each executor, and whose processor time it is."""
    kept = planning.TASK_BYTES
    planning.TASK_BYTES = 1  # so that every tensor is a task
    results: dict[str, Any] = {"tasks": tasks, "workers": workers}
    patience.wait()  # before the cluster, whose idle workers are never quiet
    try:
        with tempfile.TemporaryDirectory(dir=in_memory()) as folder, cluster(workers) as found:
            plan = _tiny(Path(folder), tasks, tasks)
            one = _tiny(Path(folder), 1, 1)
            for name in ("serial", "threads", "distributed"):
                options = Options(workers, scheduler=found.address, in_flight_bytes=1 << 40)
                seconds: list[float] = []
                spent: dict[str, list[float]] = {}
                for _ in range(repeat + 1):  # the first warms up
                    # What a run costs whatever its tasks are.
                    fixed = timed(lambda: _convert(one, name, options))  # noqa: B023
                    before = found.processor_seconds()
                    took = timed(lambda: _convert(plan, name, options))  # noqa: B023
                    seconds.append((took - fixed) / tasks)
                    for who, value in found.processor_seconds().items():
                        spent.setdefault(who, []).append((value - before[who]) / tasks)
                results[name] = {
                    "microseconds": _spread(seconds[1:]),
                    "processor_microseconds": {w: _spread(v[1:]) for w, v in spent.items()},
                }
            results["peak_bytes"] = found.peak_bytes()
    finally:
        planning.TASK_BYTES = kept
    return results


def shard_costs(shards: int, repeat: int, folder: str | None) -> dict[str, Any]:
    """Microseconds that a shard of 1 KiB takes more than one of many tensors, in two places."""
    kept = planning.TASK_BYTES
    planning.TASK_BYTES = 1
    results: dict[str, Any] = {"shards": shards}
    try:
        for name, place in (("memory", in_memory()), ("disk", folder or tempfile.gettempdir())):
            with tempfile.TemporaryDirectory(dir=place) as work:
                many, one = _tiny(Path(work), shards, 1), _tiny(Path(work), shards, shards)
                seconds = []
                for _ in range(repeat + 1):
                    patience.wait()
                    options = Options(1)
                    took = timed(lambda: _convert(many, "serial", options))  # noqa: B023
                    least = timed(lambda: _convert(one, "serial", options))  # noqa: B023
                    seconds.append((took - least) / shards)
                results[name] = {"microseconds": _spread(seconds[1:])}
    finally:
        planning.TASK_BYTES = kept
    return results


def _tiny(folder: Path, tensors: int, per_shard: int) -> Plan:
    """A plan of so many FP8 tensors of 1 KiB, recovered."""
    source = folder / f"tiny-{tensors}"
    if not source.exists():
        source.mkdir()
        entries = []
        for number in range(tensors):
            entries += [
                Entry(f"{number}.weight", "F8_E4M3", (8, 64), np.zeros((8, 64), np.uint8)),
                Entry(f"{number}.weight_scale", "F32", (), np.ones((), np.float32)),
            ]
        write_model(source, Layer(entries))
    spec = Spec(str(folder / f"out-{tensors}-{per_shard}"), max_shard_bytes=1024 * per_shard)
    return make_plan(load_model(str(source)), spec, memory_bytes=512 * MiB, threads=2)


def _convert(plan: Plan, name: str, options: Options) -> None:
    run_plan(plan, name, options, make_progress("quiet"))
    shutil.rmtree(plan.spec.path)
    Path(f"{plan.spec.path}.anamnesis.json").unlink()


def _spread(seconds: Sequence[float]) -> list[float]:
    """Median, least and most, in microseconds."""
    found = [1e6 * s for s in seconds]
    return [round(x) for x in (statistics.median(found), min(found), max(found))]
