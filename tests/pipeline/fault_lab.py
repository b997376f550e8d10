"""Runs one small job again and again in forked children, each with a fault, and then once more.

    python tests/pipeline/fault_lab.py FOLDER [--faults N] [--kills N] [--seed S]

After a fault (see `fault_shim.py`) what is on the disk is checked, the job is run again, and the
end is compared byte for byte with a run that was left alone. Prints one JSON object: how many
faults of each kind, and what was found wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fault_shim import ERRORS, KILLS, KINDS, Shim

RENAMES = "overwrite, by renames"


class Lab:
    """A folder with an input, a job over it, and what an undisturbed run of it makes."""

    def __init__(self, root: Path) -> None:
        from anamnesis.pipeline import plan as planning

        # Small windows, so that a small input makes enough calls.
        planning.WINDOW_BYTES = 24_000
        planning.TASK_BYTES = 50_000
        root.mkdir(exist_ok=True)
        self.root = root
        self.damaged: dict[str, bytes] = {}  # shards that may be found damaged
        self.source = root / "model"
        self.out = root / "out"
        self.atomic = True  # whether folders can be exchanged in one step
        write_input(self.source)
        self.run()
        self.truth = self.outputs()
        self.clear()
        self.olders = {
            "overwrite": self.made(dtype="f16"),
            "overwrite, of more shards": self.made(dtype="f16", max_shard_size="40kB"),
            "overwrite, of another format": self.made(format="arrow", manifest="inside"),
        }
        self.older: dict[str, bytes] = {}  # the one that is there

    def made(self, **output: Any) -> dict[str, bytes]:
        """What another run makes in the same place."""
        self.run(**output)
        found = self.outputs()
        self.clear()
        return found

    def run(self, executor: str = "serial", **output: Any) -> int:
        """Run the job here; the number of files that were done before."""
        from anamnesis.pipeline.config import job_from
        from anamnesis.pipeline.jobs import run_job
        from anamnesis.writers import exchange

        if not self.atomic:
            exchange.swapped = lambda new, old: False
        output = {"path": str(self.out), "max_shard_size": "76kB", **output}
        job = job_from(
            inputs=[str(self.source)],
            output=output,
            run={"executor": executor, "threads": 1 if executor == "serial" else 2},
        )
        (outcome,) = run_job(job, resume=True).outcomes
        return outcome.resumed

    def child(self, work: Callable[[], Any]) -> tuple[int, Any]:
        """Do `work` in a fork; its exit status as of `waitpid`, and what it returned or raised."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            real_write = os.write
            try:
                found = ["done", work()]
            except BaseException as error:
                found = ["error", f"{type(error).__name__}: {error}", traceback.format_exc()]
            real_write(writing, json.dumps(found).encode())
            os._exit(found[0] != "done")
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
        return os.waitpid(pid, 0)[1], json.loads(data) if data else None

    def faulted(self, at: int, kind: str, **settings: Any) -> tuple[int, Any]:
        (self.root.parent / "fault").unlink(missing_ok=True)

        def work() -> Any:
            shim = Shim(self.root, at, kind)
            shim.install()
            self.run(**settings)
            return shim.trace

        return self.child(work)

    def failing(self) -> list[str]:
        """The call and the path of the last fault; empty when the run ended before it."""
        path = self.root.parent / "fault"
        return list(json.loads(path.read_text())) if path.exists() else []

    def outputs(self) -> dict[str, bytes]:
        """Everything but the input, hidden files too."""
        return {
            str(p.relative_to(self.root)): p.read_bytes()
            for p in self.root.rglob("*")
            if p.is_file() and not p.is_relative_to(self.source) and ".undo" not in p.parts
        }

    def clear(self) -> None:
        for path in sorted(self.root.rglob("*"), reverse=True):
            if not path.is_relative_to(self.source):
                path.rmdir() if path.is_dir() else path.unlink()

    def put(self, files: dict[str, bytes]) -> None:
        self.clear()
        for name, data in files.items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_bytes(data)

    def whole(self) -> dict[str, int]:
        """Shards that are complete, with their inodes; Wrong for one neither new nor old.

        They lie in the output folder, or in the one that is to replace it.
        """
        found = {}
        for folder in (self.out, self.root / ".out.anamnesis-new"):
            for path in folder.glob("model-*"):
                name = f"out/{path.name}"
                data = path.read_bytes()
                if data == self.truth.get(name):
                    found[name] = path.stat().st_ino
                elif data != self.older.get(name) and data != self.damaged.get(name):
                    raise Wrong(f"{path}: has its final name and is not whole")
        return found

    def old_or_new(self) -> None:
        """Under the output's name is one of the two models, whole and with its own manifest."""
        from anamnesis.pipeline.journal import verify_output

        found, older, newer = (
            {
                name: data
                for name, data in model.items()
                if name.startswith("out/") and not name.endswith("anamnesis.json")
            }
            for model in (self.outputs(), self.older, self.truth)
        )
        if found not in (older, newer):
            raise Wrong(f"is neither the old nor the new model: {sorted(found)}")
        verify_output(self.out, 1 << 29)

    def check(self, stopped: Any, failing: list[str]) -> dict[str, int]:
        """What must hold after a fault, before anything is repaired."""
        found = self.whole()
        if stopped is not None and stopped[0] == "error":
            if not stopped[1].startswith("OSError"):
                raise Wrong(f"ended with {stopped[2]}")
            hidden = [n for n in self.outputs() if Path(n).name.startswith(".")]
            unfinished = [n for n in hidden if not n.endswith(".journal")]
            if unfinished and failing[0] not in ("unlink", "rmdir"):
                raise Wrong(f"left {unfinished} behind")
        return found

    def again(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """How to run the job once more: an output that is complete is not to be replaced again."""
        new = [name for name in self.truth if "/model-0" in name]
        there = all((self.root / name).exists() for name in new)
        if there and all((self.root / name).read_bytes() == self.truth[name] for name in new):
            return {}
        return settings

    def finish(self, found: dict[str, int], **settings: Any) -> None:
        """Run again; the end must be that of a run that was left alone."""
        status, answer = self.child(lambda: self.run(**settings))
        if status:
            raise Wrong(f"the second run ended with {answer}")
        if answer[1] < len(found):
            raise Wrong(f"{answer[1]} shards kept of {len(found)} that were whole")
        inodes = {name: (self.root / name).stat().st_ino for name in found}
        if inodes != found:
            raise Wrong("a shard that was whole was made again")
        end = self.outputs()
        if end != self.truth:
            names = sorted(n for n in end.keys() | self.truth if end.get(n) != self.truth.get(n))
            raise Wrong(f"differs from an undisturbed run: {names}")


class Wrong(Exception):  # noqa: N818 - the finding of this script
    """What must never be."""


def write_input(folder: Path) -> None:
    """A model folder of five FP8 tensors and a dense one, 200 kB recovered."""
    shapes = {"a": (100, 300), "b": (60, 200), "c": (128, 128), "d": (7, 300), "e": (150, 250)}
    rng = random.Random(1)
    entries: list[tuple[str, str, tuple[int, ...], bytes]] = []
    for name, shape in shapes.items():
        codes = bytes(rng.choice(range(0x7F)) for _ in range(shape[0] * shape[1]))
        entries.append((f"{name}.weight", "F8_E4M3", shape, codes))
        entries.append((f"{name}.weight_scale", "F32", (), struct.pack("<f", rng.random())))
    entries.append(
        ("norm.weight", "BF16", (300,), bytes(rng.choice(range(60)) for _ in range(600)))
    )
    header, offset = {}, 0
    for name, dtype, shape_, data in entries:
        span = [offset, offset + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape_), "data_offsets": span}
        offset += len(data)
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(e[3] for e in entries))
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')


def states(lab: Lab) -> Iterator[tuple[str, dict[str, bytes], dict[str, Any]]]:
    """Where a job may start: with nothing there, over older outputs, after damage."""
    shard = "out/model-00002-of-00003.safetensors"
    data = lab.truth[shard]
    damaged = data[:-9] + bytes([data[-9] ^ 4]) + data[-8:]
    lab.damaged = {shard: damaged}
    yield "fresh", {}, {}
    for state, older in lab.olders.items():
        yield state, older, {"overwrite": True}
    yield RENAMES, lab.olders["overwrite"], {"overwrite": True}
    yield "damaged", {**lab.truth, shard: damaged}, {}


def sweep(lab: Lab, wanted: int, rng: random.Random) -> dict[str, Any]:
    """Faults at every call; a sample of them, evenly, when there are more than `wanted`."""
    cases = []
    traces = {}
    for state, files, settings in states(lab):
        lab.atomic = state != RENAMES
        lab.put(files)
        status, answer = lab.faulted(0, "", **settings)
        if status or lab.outputs() != lab.truth:
            raise Wrong(f"{state}: {answer}")
        traces[state] = answer[1]
        cases += [(state, at + 1, kind) for at in range(len(answer[1])) for kind in KINDS]
    calls = {state: dict(Counter(name for name, _ in trace)) for state, trace in traces.items()}
    rng.shuffle(cases)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    by_state = {state: (files, settings) for state, files, settings in states(lab)}
    for state, at, kind in cases[:wanted]:
        files, settings = by_state[state]
        lab.atomic = state != RENAMES
        lab.older = files
        lab.put(files)
        try:
            status, answer = lab.faulted(at, kind, **settings)
            failing = lab.failing()
            if not failing:
                counts["none"] += 1
                continue
            if kind not in ERRORS and not (os.WIFSIGNALED(status) and answer is None):
                raise Wrong(f"was not killed: {answer}")
            found = lab.check(answer, failing)
            if state in lab.olders:
                lab.old_or_new()
            if rng.random() < 0.25:  # the second run is stopped as well
                lab.faulted(rng.randrange(1, 50), rng.choice(KILLS), **lab.again(settings))
                found |= lab.whole()
                counts["twice"] += 1
            lab.finish(found, **lab.again(settings))
        except Wrong as error:
            wrong.append(f"{state}, {kind} at call {at} {failing}: {error}")
        counts[kind] += 1
    return {"calls": calls, "counts": dict(counts), "wrong": wrong, "trace": traces["fresh"]}


def moments(lab: Lab, count: int, rng: random.Random) -> dict[str, Any]:
    """SIGKILL at random moments of a run with two threads."""
    import dask.callbacks
    import dask.threaded  # noqa: F401 - before the fork

    begin = time.perf_counter()
    lab.child(lambda: lab.run("threads"))
    usual = time.perf_counter() - begin
    wrong: list[str] = []
    killed = 0
    for _ in range(count):
        lab.clear()
        pid = os.fork()
        if not pid:
            try:
                lab.run("threads")
            finally:
                os._exit(0)
        time.sleep(rng.random() * usual)
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        try:
            lab.finish(lab.whole())
        except Wrong as error:
            wrong.append(str(error))
    lab.clear()
    return {"killed": killed, "wrong": wrong, "seconds": usual}


def limited(lab: Lab) -> dict[str, Any]:
    """A limit on file sizes that only the last shard is over."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_000, 65_000))
        lab.run()

    lab.clear()
    _, answer = lab.child(work)
    found = lab.check(answer, [])
    lab.finish(found)
    return {"error": answer[1], "kept": len(found)}


def full(lab: Lab, ballast: Path, sizes: range) -> dict[str, Any]:
    """Run with so many bytes taken of a small disk, about whose free space the system lies."""

    def work() -> None:
        plenty = os.statvfs("/proc")
        os.statvfs = lambda path: os.statvfs_result((4096, 4096, *[1 << 40] * 6, *plenty[8:]))
        lab.run()

    errors: Counter[str] = Counter()
    wrong: list[str] = []
    for size in sizes:
        lab.clear()
        ballast.write_bytes(bytes(size))
        _, answer = lab.child(work)
        errors[answer[1].partition(":")[0] if answer[0] == "error" else "none"] += 1
        try:
            found = lab.check(answer, [])
            ballast.unlink()
            lab.finish(found)
        except Wrong as error:
            wrong.append(f"{size:,} bytes taken: {error}")
    lab.clear()
    return {"errors": dict(errors), "wrong": wrong}


def small_disk(folder: Path) -> dict[str, Any]:
    """Full disks of 2 MiB; nothing when this process may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        return {}
    try:
        return full(Lab(folder / "lab"), folder / "ballast", range(1_700_000, 1_980_000, 14_000))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main() -> None:
    """Sweep, print, and exit with 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=int, default=240)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    rng = random.Random(arguments.seed)
    lab = Lab(arguments.folder / "lab")
    found = sweep(lab, arguments.faults, rng)
    lab.atomic = True
    found["moments"] = moments(lab, arguments.kills, rng)
    found["limited"] = limited(lab)
    found["small disk"] = small_disk(arguments.folder / "disk")
    found["seconds"] = time.perf_counter() - begin
    print(json.dumps(found))
    parts = (found, found["moments"], found["small disk"])
    sys.exit(any(part.get("wrong") for part in parts))


if __name__ == "__main__":
    main()
