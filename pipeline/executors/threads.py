"""Dask's threaded scheduler: kernels and system calls run without the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from anamnesis import stopping
from anamnesis.pipeline.executors import Listener, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import Cancelled, Receipt, run_task


def run(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
    """Run `tasks` on `options.threads` threads; the first of them start while Dask is imported."""
    stop = threading.Event()
    by_key = {task.key: task for task in tasks}

    def guarded(task: Task) -> Receipt | Exception | None:
        def unwanted() -> bool:
            return stop.is_set() or stopping.requested() or not listener.wanted(task)

        try:
            return None if unwanted() else run_task(task, unwanted)
        except Cancelled:
            return None
        except Exception as error:
            return error

    def tell(key: str, result: Any) -> None:
        if isinstance(result, Receipt):
            listener.done(result)
        elif isinstance(result, Exception):
            listener.failed(by_key[key], result)

    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="amn")
    try:
        first = {task.key: pool.submit(guarded, task) for task in tasks[: options.threads]}
        if len(first) < len(tasks):
            _schedule(by_key, guarded, first, tell, pool, options.threads)
        else:
            keys = {future: key for key, future in first.items()}
            for future in as_completed(keys):
                tell(keys[future], future.result())
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _schedule(
    tasks: Mapping[str, Task],
    function: Callable[[Task], Any],
    running: Mapping[str, Future[Any]],
    tell: Callable[[str, Any], None],
    pool: ThreadPoolExecutor,
    threads: int,
) -> None:
    """Have Dask run `tasks`, those excepted that are `running` in its pool already."""
    from dask.callbacks import Callback as Told
    from dask.threaded import get

    graph = {
        key: (running[key].result,) if key in running else (function, task)
        for key, task in tasks.items()
    }
    with Told(posttask=lambda key, result, dsk, state, worker: tell(key, result)):
        get(graph, list(graph), pool=pool, num_workers=threads)
