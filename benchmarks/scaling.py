"""What a large job costs: `python -m benchmarks.scaling [plan | tasks | shards | whole]`.

- *plan*: headers, plan and pickled tasks of a synthetic model of 100,000 tasks; time and memory.
- *tasks*: seconds a task besides its work, from runs of thousands of tasks of 1 KiB; on a cluster
  also processor seconds of scheduler, workers and client.
- *shards*: seconds that a shard adds: creating, syncing, checking, journal and rename.
- *whole*: one conversion of 20 GB with real bytes in every block, its speed and its peak memory.

Figures go to docs/scaling.md.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from anamnesis.limits import MiB
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.executors import Options
from anamnesis.pipeline.journal import Recipe
from anamnesis.pipeline.plan import Plan, Spec, make_plan
from anamnesis.pipeline.progress import make_progress
from anamnesis.pipeline.run import run_plan
from anamnesis.readers.model import load_model
from benchmarks.measure import Neighbours, describe, keep, machine, patience, scratch, timed
from benchmarks.models import Entry, Layer, safetensors_header, write_model

console = Console(highlight=False)
ROWS, COLUMNS = 11008, 4096


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quiet",
    type=click.FloatRange(0),
    metavar="CPUS",
    help="Wait until others take at most so many CPUs before every repetition.",
)
def main(quiet: float | None) -> None:
    """What a large job costs."""
    patience.begin(quiet)
    console.print(describe(machine()))


@main.command("plan")
@click.option("--tasks", default=100_000, show_default=True)
def plan_command(tasks: int) -> None:
    """Headers and plan of a model of so many tasks; nothing but headers is on the disk."""
    patience.wait()
    others = Neighbours()
    found = apart(plan_costs, tasks)
    _report("plan", found, others)


def plan_costs(count: int) -> dict[str, Any]:
    """In a process of its own, for the memory."""
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
        before = _peak_bytes()
        begin = time.perf_counter()
        model = load_model(folder)
        loaded = time.perf_counter()
        spec = Spec(f"{folder}/out", max_shard_bytes=50_000_000_000)
        plan = make_plan(model, spec, memory_bytes=512 * MiB, threads=2)
        planned = time.perf_counter()
        peak = _peak_bytes()
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


@main.command("tasks")
@click.option("--tasks", default=2_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--repeat", default=5, show_default=True)
def tasks_command(tasks: int, workers: int, repeat: int) -> None:
    """Overhead of a task in each executor, and who spends the time."""
    planning.TASK_BYTES = 1  # so that every tensor is a task
    results: dict[str, Any] = {"tasks": tasks, "workers": workers}
    others = Neighbours()
    with tempfile.TemporaryDirectory(dir=_memory()) as folder, cluster(workers) as found:
        plan = _tiny(Path(folder), tasks, tasks)
        one = _tiny(Path(folder), 1, 1)
        for name in ("serial", "threads", "distributed"):
            options = Options(workers, scheduler=found.address, in_flight_bytes=1 << 40)
            seconds: list[float] = []
            spent: dict[str, list[float]] = {}
            for _ in range(repeat + 1):  # the first warms up
                patience.wait()
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
    _report("tasks", results, others)


@main.command("shards")
@click.option("--shards", default=200, show_default=True)
@click.option("--repeat", default=5, show_default=True)
@click.option("--folder", default=None, help="On the disk to measure.")
def shards_command(shards: int, repeat: int, folder: str | None) -> None:
    """What a shard adds to its tasks."""
    planning.TASK_BYTES = 1
    results: dict[str, Any] = {"shards": shards}
    others = Neighbours()
    for place in (_memory(), folder or tempfile.gettempdir()):
        with tempfile.TemporaryDirectory(dir=place) as work:
            many, one = _tiny(Path(work), shards, 1), _tiny(Path(work), shards, shards)
            seconds = []
            for _ in range(repeat + 1):
                patience.wait()
                options = Options(1)
                took = timed(lambda: _convert(many, "serial", options))  # noqa: B023
                seconds.append((took - timed(lambda: _convert(one, "serial", options))) / shards)  # noqa: B023
            results[str(place)] = {"microseconds": _spread(seconds[1:])}
    _report("shards", results, others)


@main.command("whole")
@click.option("--gb", default=20.0, show_default=True, help="Of input.")
@click.option("--folder", default=None, help="With room for 2.6 times as much.")
@click.option("--memory", default="512MiB", show_default=True)
@click.option("--executor", default="threads", show_default=True)
def whole_command(gb: float, folder: str | None, memory: str, executor: str) -> None:
    """Convert a model of FP8 and dense tensors in shards of 1 GB, and verify it."""
    place = scratch(folder or tempfile.gettempdir(), int(gb * 2.65e9))
    try:
        stored = write_shards(place / "model", gb)
        job = place / "job.yaml"
        job.write_text(
            f"inputs: [{place / 'model'}]\noutput: {{path: {place / 'out'}}}\n"
            f"run: {{memory: {memory}, executor: {executor}}}\n"
        )
        results = {"stored_bytes": stored, "memory": memory, "executor": executor}
        patience.wait()
        others = Neighbours()
        results |= {"run": _watched(["run", str(job)])}
        shutil.rmtree(place / "model")  # what comes now needs the output alone
        results |= {"verify": _watched(["verify", str(place / "out")])}
        results["out_bytes"] = sum(p.stat().st_size for p in (place / "out").iterdir())
    finally:
        shutil.rmtree(place)
    _report(f"whole-{executor}", results, others)


def write_shards(folder: Path, gb: float) -> int:
    """Shards of random bytes, six tenths of them FP8 with block scales; the bytes written."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 0x7F, (ROWS, COLUMNS), dtype=np.uint8)
    scales = rng.random((86, 32), dtype=np.float32)
    dense = rng.integers(0, 0x4000, (ROWS // 3, COLUMNS), dtype=np.uint16)
    written = 0
    for number in range(round(gb)):
        entries, layers = [], 0
        size = 0
        while size < 1e9:
            for suffix, dtype, array in (
                (f"{layers}.weight", "F8_E4M3", codes),
                (f"{layers}.weight_scale_inv", "F32", scales),
                (f"{layers}.dense", "BF16", dense),
            ):
                entries.append(Entry(suffix, dtype, array.shape, array))
                size += array.nbytes
            layers += 1
        path = folder / f"model-{number:05d}.safetensors"
        write_model(folder, Layer(entries)).rename(path)
        _rename_tensors(path, number)
        written += size
        codes = np.roll(codes, 7)
    return written


def _rename_tensors(path: Path, number: int) -> None:
    """Every shard was written with the same names; give its own the number, at the same length."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length).replace(b"model.layers.0", b"shard.%08d" % number)
        file.seek(8)
        file.write(header)


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


class Cluster:
    """A scheduler and workers of one thread, as processes of their own."""

    def __init__(self, address: str, scheduler: int, nannies: Sequence[int]) -> None:
        self.address = address
        self.scheduler = scheduler
        self.nannies = nannies

    def processor_seconds(self) -> dict[str, float]:
        workers = [pid for nanny in self.nannies for pid in _children(nanny)]
        return {
            "client": time.process_time(),
            "scheduler": _processor_seconds(self.scheduler),
            "workers": sum(map(_processor_seconds, workers)),
        }


@contextmanager
def cluster(workers: int) -> Iterator[Cluster]:
    """Started here, and ended."""
    with tempfile.TemporaryDirectory() as folder:
        listed = f"--scheduler-file={folder}/scheduler.json"
        dask = [sys.executable, "-m", "dask"]
        commands = [[*dask, "scheduler", "--port=0", "--no-dashboard", listed]]
        worker = [*dask, "worker", listed, "--nthreads=1", "--no-dashboard"]
        commands += [[*worker, f"--local-directory={folder}"]] * workers
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = [
            subprocess.Popen(c, start_new_session=True, **silent)  # type: ignore[call-overload]
            for c in commands
        ]
        try:
            path = Path(folder, "scheduler.json")
            while not (path.exists() and path.read_text()):
                time.sleep(0.1)
            address = json.loads(path.read_text())["address"]
            from distributed import Client

            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=60)
            yield Cluster(address, started[0].pid, [p.pid for p in started[1:]])
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _watched(arguments: Sequence[str]) -> dict[str, Any]:
    """Run the command line; wall and processor seconds, and the peak of every process of it."""
    code = "from anamnesis.pipeline.cli import main; main()"
    begin = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    peaks: dict[int, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for pid in _family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), _high_water(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{arguments[0]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - begin,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "peak_bytes": sorted(peaks.values(), reverse=True),
    }


def _family(pid: int) -> list[int]:
    children = _children(pid)
    return [pid, *(p for child in children for p in _family(child))]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def apart(work: Callable[[int], dict[str, Any]], argument: int) -> dict[str, Any]:
    """Call a function of this module in a fresh process."""
    code = f"import json; from benchmarks.scaling import {work.__name__} as work; "
    code += f"print(json.dumps(work({argument})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _report(name: str, results: dict[str, Any], others: Neighbours) -> None:
    """Print and keep; on a cluster its own processes count as others."""
    console.print_json(json.dumps(results))
    console.print(others.text())
    keep(f"scaling-{name}", results, others)


def _spread(seconds: Sequence[float]) -> list[float]:
    """Median, least and most, in microseconds."""
    found = [1e6 * s for s in seconds]
    return [round(x) for x in (statistics.median(found), min(found), max(found))]


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.scaling")
