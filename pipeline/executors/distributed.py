"""A Dask cluster: tasks are submitted by a window of bytes in flight; receipts come back.

Submission is windowed by the client. Restricting tasks by `resources=` would bypass the
scheduler's own queueing (`is_rootish` in distributed/scheduler.py), and submitting everything at
once would let one worker hoard what others could do. A task may run more than once, even at
the same time; it writes the same bytes to the same place, so that does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from anamnesis.pipeline.executors import Listener, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import run_task

TRIES = 3  # of a task that the file system failed; other errors come again with certainty


def run(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
    """Run `tasks` on the cluster at `options.scheduler`, or on a LocalCluster of processes."""
    from distributed import as_completed

    if not tasks:
        return
    with _client(options, listener) as client:
        waiting = iter(tasks)
        flying: dict[str, Task] = {}
        tries: dict[str, int] = {}

        def send(task: Task) -> Any:
            tries[task.key] = tries.get(task.key, 0) + 1
            # Other nodes' pages must have left them before the client syncs and renames.
            future = client.submit(run_task, replace(task, sync=True), pure=False)
            flying[future.key] = task
            return future

        def fill() -> list[Any]:
            """Futures for as many waiting tasks as the window of bytes has room for."""
            futures = []
            while not flying or sum(t.out_bytes for t in flying.values()) < options.in_flight_bytes:
                task = next((t for t in waiting if listener.wanted(t)), None)
                if task is None:
                    break
                futures.append(send(task))
            return futures

        flight = as_completed(fill(), loop=client.loop, raise_errors=False)
        for future in flight:
            task = flying.pop(future.key)
            error = future.exception() if future.status == "error" else None
            if future.status == "finished":
                listener.done(future.result())
            elif isinstance(error, OSError) and tries[task.key] < TRIES:
                flight.add(send(task))
            else:
                listener.failed(task, error or RuntimeError(f"{task.key}: {future.status}"))
            flight.update(fill())


@contextmanager
def _client(options: Options, listener: Listener) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if options.scheduler:
        with Client(options.scheduler, set_as_default=False) as client:
            listener.note(f"dashboard {client.dashboard_link}")
            yield client
        return
    with (
        LocalCluster(
            n_workers=options.threads,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
