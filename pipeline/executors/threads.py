"""Dask's threaded scheduler: kernels and system calls run without the GIL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anamnesis.pipeline.executors import OnDone, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import Cancelled, Receipt, run_task


def run(tasks: Sequence[Task], options: Options, on_done: OnDone) -> None:
    """Run `tasks` on `options.threads` threads."""
    from dask._task_spec import Task as Node
    from dask.callbacks import Callback
    from dask.threaded import get

    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(task: Task) -> Receipt | None:
        try:
            return run_task(task, stop.is_set)
        except Cancelled:
            return None
        except BaseException as error:
            failures.append(error)
            stop.set()  # the others need not go on
            raise

    def finished(key: str, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(result, Receipt):
            on_done(result)

    graph = {task.key: Node(task.key, guarded, task) for task in tasks}
    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="amn")
    try:
        with Callback(posttask=finished):
            get(graph, list(graph), pool=pool, num_workers=options.threads)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        raise failures[0]
