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
COMMAND = "from anamnesis.pipeline.cli import main; main()"
# Notes on stderr when a file to be written is opened first: start-up is over.
STAMPED = """
import os, sys, time
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(".part"):
        if not seen:
            seen.append(time.perf_counter())
            os.write(2, b"begun %r\\n" % seen[0])
seen = []
sys.addaudithook(note)
"""
FLOOR = "from benchmarks.floor import main; main()"


def launch(command: Sequence[str]) -> dict[str, Any]:
    """Run a command through `launch.py`; raises when it fails.

    `begun` is when a command that was started by `remember` or `floor` opened its output, on the
    clock of `begin`.
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


def remember(path: Path, out: Path, threads: int) -> dict[str, float]:
    """`amn remember`: seconds in all, of which start-up, and the rest."""
    command = [sys.executable, "-c", STAMPED + COMMAND, "remember", str(path), "-o", str(out)]
    return _phases(launch([*command, "--threads", str(threads)]))


def floor(path: Path, out: Path, threads: int, startup: float) -> dict[str, float]:
    """The I/O floor in a process that begins with the same imports and `startup` seconds."""
    command = [sys.executable, "-c", FLOOR, str(path), str(out), str(threads), str(startup)]
    return _phases(launch(command))


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
