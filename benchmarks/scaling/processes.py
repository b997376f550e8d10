"""Processes of their own: a cluster, the command line under watch, a function in a fresh one."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Cluster:
    """A scheduler and workers of one thread, as processes of their own."""

    def __init__(self, address: str, scheduler: int, nannies: Sequence[int]) -> None:
        self.address = address
        self.scheduler = scheduler
        self.nannies = nannies

    @property
    def workers(self) -> list[int]:
        return [pid for nanny in self.nannies for pid in _children(nanny)]

    def processor_seconds(self) -> dict[str, float]:
        return {
            "client": time.process_time(),
            "scheduler": _processor_seconds(self.scheduler),
            "workers": sum(map(_processor_seconds, self.workers)),
        }

    def peak_bytes(self) -> dict[str, int]:
        """Of the scheduler and of the largest worker, since they began."""
        return {
            "scheduler": high_water(self.scheduler),
            "worker": max(map(high_water, self.workers)),
        }


@contextmanager
def cluster(workers: int) -> Iterator[Cluster]:
    """Started here, and ended."""
    with tempfile.TemporaryDirectory() as folder:
        listed = f"--scheduler-file={folder}/scheduler.json"
        dask = [sys.executable, "-m", "dask"]
        commands = [[*dask, "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", listed]]
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


def watched(arguments: Sequence[str]) -> dict[str, Any]:
    """Run the command line; wall and processor seconds, and the peak of every process of it."""
    code = "from anamnesis.cli.main import main; main()"
    begin = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    peaks: dict[int, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for pid in _family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), high_water(pid))

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


def apart(work: Callable[[int], dict[str, Any]], argument: int) -> dict[str, Any]:
    """Call a function of a module in a fresh process."""
    code = f"import json; from {work.__module__} import {work.__name__} as work; "
    code += f"print(json.dumps(work({argument})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def own_peak_bytes() -> int:
    """Of this process; not `ru_maxrss`, which begins at what its parent had resident."""
    return high_water(os.getpid())


def high_water(pid: int) -> int:
    """The peak of a process in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


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


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
