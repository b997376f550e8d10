"""Whole commands in processes of their own: wall time, start-up, processor time, peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "from anamnesis.cli.main import main; main()"
# Notes on stderr when the first values are written, or else when the output is opened.
STAMPED = """
import atexit, os, sys, time
def opened(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(".part"):
        seen.setdefault("opened", time.perf_counter())
def pwrite(fd, data, offset):
    if memoryview(data).nbytes >= 65536:
        os.pwrite = real
        seen["written"] = time.perf_counter()
    return real(fd, data, offset)
def say():
    os.write(2, b"begun %a\\n" % seen.get("written", seen.get("opened")))
seen, real = {}, os.pwrite
sys.addaudithook(opened)
os.pwrite = pwrite
atexit.register(say)
"""
FLOOR = "from benchmarks.floor import main; main()"


def launch(command: Sequence[str]) -> dict[str, Any]:
    """Run a command through `launch.py`; raises when it fails.

    `begun` is when a command that was started by `remember` or `floor` wrote its first values, on
    the clock of `begin`.
    """
    script = str(Path(__file__).with_name("launch.py"))
    environment = dict(os.environ)
    here = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, here))
    done = subprocess.run(
        [sys.executable, "-S", "-E", script, *command],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if found["exit"]:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    for line in done.stderr.splitlines():
        if line.startswith("begun "):
            found["begun"] = float(line.split()[1])
    return found


def remember(path: Path, out: Path, threads: int, target: str = "") -> dict[str, float]:
    """`amn remember`, or `amn convert --encode TARGET`: seconds in all, start-up, and the rest."""
    arguments = ["remember", str(path)]
    if target:
        form = "gguf" if target.startswith("gguf-") else "safetensors"
        arguments = ["convert", str(path), "--to", form, "--names", "stored", "--encode", target]
    command = [sys.executable, "-c", STAMPED + COMMAND, *arguments, "-o", str(out)]
    return _phases(launch([*command, "--threads", str(threads)]))


def floor(
    path: Path, out: Path, threads: int, startup: float, target: str = ""
) -> dict[str, float]:
    """The I/O floor in a process that begins with the same imports and `startup` seconds."""
    command = [sys.executable, "-c", FLOOR, str(path), str(out), str(threads), str(startup)]
    return _phases(launch([*command, *filter(None, [target])]))


def _phases(found: dict[str, Any]) -> dict[str, float]:
    startup = found["begun"] - found["begin"]
    return {
        "wall": found["seconds"],
        "startup": startup,
        "work": found["seconds"] - startup,
        "user": found["user"],
        "system": found["system"],
        "peak_bytes": found["peak_bytes"],
    }
