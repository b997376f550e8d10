"""A scheduler and workers as processes of their own, whose tasks a test holds and lets go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from distributed import Client

PRELOAD = Path(__file__).parents[1] / "pipeline" / "worker_preload.py"


class Held:
    """The tasks that workers hold until they are let go: see worker_preload.py."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._folder, self._process = folder, process

    def workers(self) -> dict[str, int]:
        """The processes that hold tensors, or held them when they were killed."""
        found = {}
        for path in self._folder.glob("held*"):
            if path.suffix != ".go" and (text := path.read_text()).endswith("\n"):
                found[path.name] = int(text)
        return found

    def next(self, among: Callable[[str, int], bool]) -> tuple[str, int]:
        """A tensor and the worker that holds it, as soon as there is one such."""
        while True:
            for name, pid in sorted(self.workers().items()):
                if among(name, pid):
                    return name, pid
            assert self._process.poll() is None, self._process.communicate()
            time.sleep(0.02)

    def let_some_go(self, out: Path) -> set[str]:
        """Let tasks go, one after the other, until a file of the output is there."""
        gone: set[str] = set()
        while not (out.is_dir() and list(out.glob("model-*"))):
            assert self._process.poll() is None, self._process.communicate()
            for name in set(self.workers()) - gone:
                if len(gone) < LET_GO:
                    (self._folder / f"{name}.go").touch()
                    gone.add(name)
            time.sleep(0.02)
        return gone

    def kill(self, gone: set[str], count: int) -> None:
        """SIGKILL so many workers, each while it holds a task that no other had."""
        killed: set[int] = set()
        for _ in range(count):
            _, pid = self.next(lambda name, pid: name not in gone and pid not in killed)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    def go(self) -> None:
        (self._folder / "go").touch()


LET_GO = 2  # tensors, before the first file is there


class Cluster:
    """`dask scheduler` and two `dask worker`s with nannies, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = folder / "held"
        self._held.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(
            "scheduler", "--port=0", "--dashboard-address=127.0.0.1:0", "--host=127.0.0.1"
        )
        self.address = self._await_address()
        for _ in range(2):
            self.start_worker()

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One more, and its nanny."""
        return self._start(
            *("worker", self.address, "--nthreads=1", "--memory-limit=2GiB", "--no-dashboard"),
            *("--death-timeout=240", f"--local-directory={self._folder}", f"--preload={PRELOAD}"),
        )

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self._folder / f"{len(self._processes)}.log").open("wb")
        command = [sys.executable, "-m", "dask", *arguments]
        if arguments[0] == "scheduler":
            command.append(f"--scheduler-file={self._folder / 'scheduler.json'}")
        # A task that was on two dead workers is given up, so that the tests take less time.
        settings = {
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
            "HELD_FOLDER": str(self._held),
        }
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._processes.append(process)
        return process

    def _await_address(self) -> str:
        path = self._folder / "scheduler.json"
        while not (path.exists() and (text := path.read_text())):
            assert self.scheduler.poll() is None, (self._folder / "0.log").read_text()
            time.sleep(0.05)
        return str(json.loads(text)["address"])

    def await_workers(self, count: int) -> None:
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count)

    def held(self, process: subprocess.Popen[str]) -> Held:
        return Held(self._held, process)

    def hanging(self) -> list[int]:
        """The processes that hold tensors."""
        return [int(path.read_text()) for path in self._held.glob("held*")]

    def clear(self) -> None:
        for path in self._held.iterdir():
            path.unlink()

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=120)
