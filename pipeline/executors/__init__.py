"""Ways to run the tasks of a plan; the serial one defines the truth.

An executor is a function `(tasks, options, listener)`: it runs every task that is still wanted and
tells the listener of each receipt and each failure, in the caller's thread. One failed task stops
no other; the listener decides what is still wanted. When the caller is interrupted, running tasks
stop between two windows and are waited for; those on a cluster go on to their end, in files that
have no name any more. All executors write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from anamnesis import stopping
from anamnesis.pipeline.plan import TASK_BYTES, Task
from anamnesis.pipeline.task import Receipt


class SchedulerError(ConnectionError):
    """A cluster's scheduler cannot be reached, or was lost; other runs of a job need not try."""


class Listener(Protocol):
    """Who is told how the tasks fare; `wanted` may be called from any thread."""

    def wanted(self, task: Task) -> bool:
        """Whether a task's output is still of use."""
        ...

    def done(self, receipt: Receipt) -> None:
        """A task has written all of its pieces."""
        ...

    def failed(self, task: Task, error: Exception) -> None:
        """A task will not be done."""
        ...

    def note(self, text: str) -> None:
        """Something a person may want to know, such as a dashboard's address."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """`threads` workers; `in_flight_bytes` bounds what a cluster is given at a time."""

    threads: int
    scheduler: str | None = None
    in_flight_bytes: int = 1 << 30


def options_for(threads: int, memory_bytes: int, scheduler: str | None) -> Options:
    """What a job of so many threads hands to its executor."""
    return Options(threads, scheduler, max(memory_bytes, 2 * threads * TASK_BYTES))


EXECUTORS = {
    "distributed": "anamnesis.pipeline.executors.distributed:run",
    "serial": "anamnesis.pipeline.executors.serial:run",
    "threads": "anamnesis.pipeline.executors.threads:run",
}

Execute = Callable[[Sequence[Task], Options, Listener], None]


def executor(name: str) -> Execute:
    """The executor of that name, imported on first use."""
    module, _, function = EXECUTORS[name].partition(":")
    run: Execute = getattr(import_module(module), function)

    def execute(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
        run(tasks, options, listener)
        stopping.check()  # tasks that were not done are no failures

    return execute


def receipts_of(
    execute: Execute,
    tasks: Sequence[Task],
    options: Options,
    note: Callable[[str], None],
    finished: Callable[[Receipt], None] = lambda receipt: None,
) -> list[Receipt]:
    """The receipts of tasks none of which can be missing, in the order of the tasks.

    `finished` is told of each as it comes. Raises the first error of any task, after which no
    other task is begun.
    """
    listener = _Collector(note, finished)
    execute(tasks, options, listener)
    if listener.failure is not None:
        raise listener.failure
    return [listener.receipts[task.key] for task in tasks]


class _Collector:
    """Listens to an executor; one failure makes everything else unwanted."""

    def __init__(self, note: Callable[[str], None], finished: Callable[[Receipt], None]) -> None:
        self.note, self._finished = note, finished
        self.receipts: dict[str, Receipt] = {}
        self.failure: Exception | None = None

    def wanted(self, task: Task) -> bool:
        return self.failure is None

    def done(self, receipt: Receipt) -> None:
        self.receipts[receipt.key] = receipt
        self._finished(receipt)

    def failed(self, task: Task, error: Exception) -> None:
        self.failure = self.failure or error
