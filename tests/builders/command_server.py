"""The command line in processes of their own, forked from one that has imported it already.

A process that starts from nothing spends a quarter of a second on imports, and tests run commands
by the hundred. What a command is given and shows is the same: arguments, folder, environment,
no terminal, the exit code of the interpreter.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

# Frozen, so that the collector does not write to, and thereby copy, what children share.
_SERVER = """
import gc, json, multiprocessing, os, sys
import dask.threaded, numpy
import anamnesis.model.api, anamnesis.pipeline.jobs, anamnesis.writers.safetensors
from anamnesis.cli.main import main

def command(arguments, folder, *files):
    for fd, file in enumerate((os.devnull, *files)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), fd)
    os.chdir(folder)
    sys.argv[1:] = arguments
    main()

gc.freeze()
for request in iter(sys.stdin.readline, ""):
    child = multiprocessing.get_context("fork").Process(target=command, args=json.loads(request))
    child.start()
    child.join()
    os.write(1, b"%d\\n" % child.exitcode)
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


class CommandServer:
    """Runs commands one by one, in the environment that it was made in."""

    def __init__(self, folder: Path) -> None:
        self._files = [folder / "stdout", folder / "stderr"]
        self.environment = environment()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, arguments: list[str], cwd: object, timeout: float) -> tuple[int, str, str]:
        """The exit code, what went to stdout and what to stderr; TimeoutExpired."""
        for file in self._files:
            file.write_bytes(b"")
        server = self._started()
        assert server.stdin is not None
        assert server.stdout is not None
        request = json.dumps([arguments, str(cwd or Path.cwd()), *map(str, self._files)])
        server.stdin.write(request.encode() + b"\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            self.close()
            raise subprocess.TimeoutExpired(arguments, timeout)
        code = int(server.stdout.readline())
        out, err = (file.read_text() for file in self._files)
        return code, out, err

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.environment,
                start_new_session=True,
            )
        return self._process

    def close(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None
