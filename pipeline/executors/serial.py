"""One task after another in the caller's thread."""

from __future__ import annotations

from collections.abc import Sequence

from anamnesis import stopping
from anamnesis.pipeline.ahead import reading_ahead
from anamnesis.pipeline.executors import Listener, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import run_task


def run(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
    """Run `tasks` in order."""
    with reading_ahead(tasks, 1) as skip:
        for task in tasks:
            stopping.check()
            if not listener.wanted(task):
                skip(task)
                continue
            try:
                receipt = run_task(task, stopping.requested)
            except Exception as error:
                listener.failed(task, error)
            else:
                listener.done(receipt)
