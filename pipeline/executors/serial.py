"""One task after another in the caller's thread."""

from __future__ import annotations

from collections.abc import Sequence

from anamnesis.pipeline.executors import OnDone, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import run_task


def run(tasks: Sequence[Task], options: Options, on_done: OnDone) -> None:
    """Run `tasks` in order."""
    for task in tasks:
        on_done(run_task(task))
