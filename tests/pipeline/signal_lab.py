"""Sends a signal to a run at a random moment, again and again, and looks at what is left.

    python tests/pipeline/signal_lab.py FOLDER [--signals N] [--seed S]

Every run converts one small model into a folder, most of them beginning with nothing imported. The
moment is drawn from the whole run, from the instants around the appearance of the `.part` file, and
from the time before. A run must end within `SECONDS` of the signal, with 130 and nothing but whole,
journalled shards, or with 0 and all of them, or, where the signal came before the program could
listen, by the signal itself with nothing made. What takes longer and ends is `late`, with what it
did meanwhile: a busy machine may give it no processor. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

SECONDS = 30.0  # what is there so long after a signal hangs; the grace, and a busy machine
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
EXECUTORS = ("threads", "threads", "serial")
SHARDS = 3
REST = ("o/out", "o/out.anamnesis.json", "o/out/model.safetensors.index.json")
# A run of this takes a second, half of it imports; windows are slowed down.
CODE = """
import sys, time, anamnesis.pipeline.plan as plan, anamnesis.writers.safetensors as s
plan.WINDOW_BYTES, plan.TASK_BYTES = 24_000, 50_000
write = s.RawSlot.write
def slow(*a): time.sleep(0.02); write(*a)
s.RawSlot.write = slow
from anamnesis.cli.main import main; main()
"""


def write_input(path: Path) -> None:
    """Three tensors of 128 KiB."""
    header = {
        f"w{n}": {"dtype": "F32", "shape": [128, 256], "data_offsets": [n << 17, (n + 1) << 17]}
        for n in range(3)
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(3 << 17))


class Lab:
    """A folder with an input, a job over it, and how long a run of it takes."""

    def __init__(self, root: Path, seed: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.out = root / "o" / "out"
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.late: list[str] = []
        self.slowest = 0.0
        write_input(root / "in.safetensors")
        begin = time.monotonic()
        if self._start("threads").wait(timeout=120):
            raise RuntimeError("the job fails without a signal")
        self.seconds = time.monotonic() - begin

    def once(self) -> None:
        """One run and one signal."""
        shutil.rmtree(self.root / "o", ignore_errors=True)
        number = self.draw.choice(SIGNALS)
        moment = self.draw.choice(("any", "part", "part"))
        executor = self.draw.choice(EXECUTORS)
        process = self._start(executor)
        if moment == "any":
            time.sleep(self.draw.uniform(0, 1.1 * self.seconds))
        else:
            self._await_part(process)
            time.sleep(self.draw.uniform(0, 0.04))
        process.send_signal(number)
        begin = time.monotonic()
        try:
            process.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            what = f"{number.name} {moment} {executor}: still running: {_threads(process.pid)}"
            try:  # a busy machine may not have let it run
                process.wait(timeout=4 * SECONDS)
                self.late.append(f"{what}; ended after {time.monotonic() - begin:.0f} s")
            except subprocess.TimeoutExpired:
                what += f"; then {_threads(process.pid)}"
                process.kill()
                process.wait()
                self._is_wrong(what)
                return
        self.slowest = max(self.slowest, time.monotonic() - begin)
        self._look(process, f"{number.name} {moment} {executor}")

    def _start(self, executor: str) -> subprocess.Popen[bytes]:
        job, threads = self.root / "job.yaml", 1 if executor == "serial" else 2
        job.write_text(
            f"inputs: [{self.root}/in.safetensors]\n"
            f"output: {{path: {self.out}, max_shard_size: 80kB}}\n"
            f"numbers: {{passthrough: bf16}}\nrun: {{executor: {executor}, threads: {threads}}}\n"
        )
        with (self.root / "stderr").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", CODE, "run", str(job)],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _await_part(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if self.out.is_dir() and any(n.endswith(".part") for n in os.listdir(self.out)):
                return
            time.sleep(0.001)

    def _look(self, process: subprocess.Popen[bytes], what: str) -> None:
        code = process.returncode
        left = sorted(str(p.relative_to(self.root)) for p in (self.root / "o").rglob("*"))
        shards = [name for name in left if name.startswith("o/out/model-")]
        allowed = set(shards) | {"o/out", "o/.out.anamnesis.journal"} if shards else set()
        whole = len(shards) == SHARDS and left == sorted([*shards, *REST])
        if code == 0 or (code < 0 and whole):  # when the interpreter is ending, nobody listens
            self.counts["done before it"] += 1
            if not whole:
                self._is_wrong(f"{what}: exit {code} with {left}")
            return
        early = code < 0 and not left  # by the signal itself, before the program listened
        # While `site` and the first modules are imported Ctrl-C is Python's own exception.
        early = early or (code == 1 and "SIGINT" in what and not left)
        self.counts["before it listened" if early else "stopped"] += 1
        said = (self.root / "stderr").read_text("utf-8", "replace")
        if early:
            return
        if code != 130 or "Traceback" in said or "error: interrupted" not in said:
            self._is_wrong(f"{what}: exit {code}, {said[-300:]}")
        extras = {"o/out/model.safetensors.index.json"} if len(shards) == SHARDS else set()
        if set(left) - allowed - extras - {"o"}:
            self._is_wrong(f"{what}: left {left}")

    def _is_wrong(self, text: str) -> None:
        self.wrong.append(text)
        print(text, file=sys.stderr, flush=True)


def _threads(pid: int) -> str:
    """What the threads of a process wait for, and the ticks of processor time they have had."""
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with contextlib.suppress(OSError):  # it may end meanwhile
            _, _, fields = (task / "stat").read_text().rpartition(") ")
            state, *numbers = fields.split()
            waits = (task / "wchan").read_text()
            found.append(f"{state} {waits} {int(numbers[10]) + int(numbers[11])}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--signals", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begin = time.monotonic()
    lab = Lab(given.folder, given.seed)
    for done in range(1, given.signals + 1):
        lab.once()
        if not done % 100:
            print(f"{done} signals, {len(lab.wrong)} wrong", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - begin)
    found = {
        **lab.counts,
        "slowest_seconds": round(lab.slowest, 2),
        "late": lab.late,
        "wrong": lab.wrong,
    }
    print(json.dumps({"signals": given.signals, **found, "seconds": seconds}, indent=1))
    sys.exit(bool(lab.wrong))


if __name__ == "__main__":
    main()
