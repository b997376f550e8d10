"""Ways to run the tasks of a plan; the serial one defines the truth.

An executor is a function `(tasks, options, on_done)`: it runs every task, calls `on_done` with each
receipt in the caller's thread, and returns when all are done. On the first error, or when the
caller is interrupted, it lets running tasks stop between two windows, waits for them, and
raises. All of them write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import Receipt

OnDone = Callable[[Receipt], None]


@dataclass(frozen=True, slots=True)
class Options:
    """`threads` workers; `in_flight_bytes` bounds what a cluster is given at a time."""

    threads: int
    scheduler: str | None = None
    in_flight_bytes: int = 1 << 30


EXECUTORS = {
    "distributed": "anamnesis.pipeline.executors.distributed:run",
    "serial": "anamnesis.pipeline.executors.serial:run",
    "threads": "anamnesis.pipeline.executors.threads:run",
}

Execute = Callable[[Sequence[Task], Options, OnDone], None]


def executor(name: str) -> Execute:
    """The executor of that name, imported on first use."""
    module, _, function = EXECUTORS[name].partition(":")
    run: Execute = getattr(import_module(module), function)
    return run
