"""Dask's threaded scheduler: kernels and system calls run without the GIL."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import copy_context

from anamnesis import stopping
from anamnesis.pipeline.ahead import reading_ahead
from anamnesis.pipeline.executors import Listener, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import Cancelled, Receipt, run_task

Done = tuple[Task, Receipt | Exception | None]


def run(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
    """Run `tasks` on `options.threads` threads; the first of them start while Dask is imported."""
    with reading_ahead(tasks, options.threads) as skip:
        _run(tasks, options, listener, skip)


def _run(
    tasks: Sequence[Task], options: Options, listener: Listener, skip: Callable[[Task], None]
) -> None:
    stop = threading.Event()
    context = copy_context()  # of whoever reads ahead
    waiting = iter(tasks)
    lock = threading.Lock()

    def guarded(task: Task) -> Receipt | Exception | None:
        def unwanted() -> bool:
            return stop.is_set() or stopping.requested() or not listener.wanted(task)

        try:
            if not unwanted():
                return context.copy().run(run_task, task, unwanted)
            skip(task)
            return None
        except Cancelled:
            return None
        except Exception as error:
            return error

    def take() -> Done:
        """The next task, whichever Dask has chosen: what is read ahead comes in their order."""
        with lock:
            task = next(waiting)
        return task, guarded(task)

    def tell(done: Done) -> None:
        task, result = done
        if isinstance(result, Receipt):
            listener.done(result)
        elif isinstance(result, Exception):
            listener.failed(task, result)

    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="amn")
    try:
        first = [pool.submit(take) for _ in tasks[: options.threads]]
        if len(first) < len(tasks):
            _schedule(len(tasks), take, first, tell, pool)
        else:
            for future in as_completed(first):
                tell(future.result())
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _schedule(
    count: int,
    take: Callable[[], Done],
    running: Sequence[Future[Done]],
    tell: Callable[[Done], None],
    pool: ThreadPoolExecutor,
) -> None:
    """Have Dask run `count` tasks, of which the first are `running` in its pool already.

    Dask begins where it likes, so that its keys stand for no task: whichever comes first tells of
    the first, whose file would stay unfinished until the end otherwise.
    """
    from dask.callbacks import Callback
    from dask.threaded import get

    waiting = deque(future.result for future in running)

    def following() -> Done:
        try:
            result = waiting.popleft()
        except IndexError:
            return take()
        return result()

    graph: dict[int, tuple[Callable[[], Done]]] = dict.fromkeys(range(count), (following,))
    with Callback(posttask=lambda key, result, dsk, state, worker: tell(result)):
        get(graph, list(graph), pool=pool, num_workers=len(running))
