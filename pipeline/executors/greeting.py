"""Whether workers can do the tasks of a run at all: their memory, version, and way to its files.

Those that are there at the start are asked, and those that join later, before long. One that
cannot ends the run with its name; one that leaves before it answers is forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from anamnesis.errors import IntegrityError, LimitError, UnsupportedError, UsageError
from anamnesis.limits import MiB
from anamnesis.pipeline.plan import Task, WriteTask
from anamnesis.readers.base import FileId
from anamnesis.readers.source import is_url, open_source, public_name
from anamnesis.version import __version__
from anamnesis.writers.stores import located, store_of

# What a worker process holds besides the buffers of its tasks. Measured; see docs/scaling.md.
WORKER_BYTES = 256 * MiB
_TRIES = 2  # of a question to one that is there, as far as the scheduler knows


class Greeting:
    """The question, and who has answered it."""

    def __init__(self, client: Any, tasks: Sequence[Task], origin: str) -> None:
        """`origin` is the folder in which relative paths start."""
        self._client = client
        self._known: set[str] = set()
        self._task_bytes = max(task.memory_bytes for task in tasks)
        self._paths = [
            os.path.join(origin, path) if isinstance(path, str) and not is_url(path) else path
            for path in _paths(tasks[0])
        ]

    def ask(self, names: Iterable[str]) -> None:
        """Ask the workers of these names, once each.

        Raises LimitError when one has too little memory, UsageError when it has another version,
        does not see the files, or cannot be reached.
        """
        for attempt in range(1, _TRIES + 1):
            there = self._client.scheduler_info(n_workers=-1)["workers"]
            new = [name for name in names if name in there and name not in self._known]
            if not new:
                return
            for name in new:
                self._check_memory(name, there[name])
            answers = self._client.run(_answer, self._paths, workers=new, on_error="return")
            for name, answer in answers.items():
                if not isinstance(answer, OSError):  # of its connection: has it left?
                    self._hold(name, answer)
                elif attempt == _TRIES and name in self._workers():
                    raise UsageError(f"worker {name}: the scheduler cannot reach it: {answer}")

    def _workers(self) -> Any:
        return self._client.scheduler_info(n_workers=-1)["workers"]

    def _check_memory(self, name: str, worker: Any) -> None:
        need = WORKER_BYTES + worker["nthreads"] * self._task_bytes
        if 0 < worker["memory_limit"] < need:
            raise LimitError(
                f"worker {name}: {worker['nthreads']} thread(s) need {need:,} bytes, its "
                f"memory limit is {worker['memory_limit']:,}; start it with fewer threads "
                "(--nthreads) or more memory (--memory-limit)",
                limit="worker memory",
                need=need,
                have=worker["memory_limit"],
            )

    def _hold(self, name: str, answer: Any) -> None:
        """Hold an answer against what is here."""
        if isinstance(answer, BaseException):
            raise UsageError(f"worker {name}: {answer}; it needs this package, as it is here")
        version, refusal = answer
        if version != __version__:
            raise UsageError(f"worker {name}: has version {version}, here is {__version__}")
        if refusal:
            raise UsageError(f"worker {name}: {refusal}")
        self._known.add(name)


def _answer(paths: Sequence[str | FileId]) -> tuple[str, str]:
    """What a worker says of itself: its version, and what keeps it from a path; "" for nothing.

    Of an input behind a URL a byte is read, where a wrong version is for tasks to tell.
    """
    for path in paths:
        try:
            if isinstance(path, str):
                store_of(path).reach(located(path))
                continue
            with (
                suppress(IntegrityError),
                open_source(path.path, first_bytes=1, expected=path) as file,
            ):
                file.read(0, 1)
        except FileNotFoundError:
            named = path if isinstance(path, str) else public_name(path.path)
            return __version__, (
                f"{named}: not found there; workers need the same storage under the same path"
            )
        except (OSError, UnsupportedError) as error:
            return __version__, f"{error}; workers need a way to it, and credentials of their own"
    return __version__, ""


def _paths(task: Task) -> list[str | FileId]:
    """Where a task's files are: the folder of its output, its inputs, the first behind a URL."""
    outputs = [str(located(task.part).parent)] if isinstance(task, WriteTask) else []
    components = [c for piece in task.pieces for t in piece.tensors for c in t.components]
    inputs = {c.stored.file.path: c.stored.file for c in components}
    here = sorted(path for path in inputs if not is_url(path))
    return [*outputs, *here, *[inputs[path] for path in sorted(inputs) if is_url(path)][:1]]


__all__ = ["WORKER_BYTES", "Greeting"]
