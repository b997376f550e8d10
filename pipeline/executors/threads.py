"""Dask's threaded scheduler: kernels and system calls run without the GIL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anamnesis.pipeline.executors import Listener, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import Cancelled, Receipt, run_task


def run(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
    """Run `tasks` on `options.threads` threads."""
    from dask._task_spec import Task as Node
    from dask.callbacks import Callback
    from dask.threaded import get

    stop = threading.Event()
    by_key = {task.key: task for task in tasks}

    def guarded(task: Task) -> Receipt | Exception | None:
        def unwanted() -> bool:
            return stop.is_set() or not listener.wanted(task)

        try:
            return None if unwanted() else run_task(task, unwanted)
        except Cancelled:
            return None
        except Exception as error:
            return error

    def finished(key: str, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(result, Receipt):
            listener.done(result)
        elif isinstance(result, Exception):
            listener.failed(by_key[key], result)

    graph = {key: Node(key, guarded, task) for key, task in by_key.items()}
    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="amn")
    try:
        with Callback(posttask=finished):
            get(graph, list(graph), pool=pool, num_workers=options.threads)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
