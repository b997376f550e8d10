"""A Dask cluster: tasks are submitted by a window of bytes in flight; receipts come back.

Submission is windowed by the client. Restricting tasks by `resources=` would bypass the
scheduler's own queueing (`is_rootish` in distributed/scheduler.py), and submitting everything at
once would let one worker hoard what others could do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anamnesis.pipeline.executors import OnDone, Options
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import run_task


def run(tasks: Sequence[Task], options: Options, on_done: OnDone) -> None:
    """Run `tasks` on the cluster at `options.scheduler`, or on a LocalCluster of processes."""
    from distributed import as_completed

    if not tasks:
        return
    with _client(options) as client:
        waiting = iter(tasks)
        sizes: dict[str, int] = {}

        def submit() -> list[Any]:
            """Futures for as many waiting tasks as the window of bytes has room for."""
            futures = []
            while not sizes or sum(sizes.values()) < options.in_flight_bytes:
                task = next(waiting, None)
                if task is None:
                    break
                future = client.submit(run_task, task, pure=False)
                sizes[future.key] = task.out_bytes
                futures.append(future)
            return futures

        flight = as_completed(submit(), loop=client.loop, with_results=True)
        for future, receipt in flight:
            del sizes[future.key]
            on_done(receipt)
            flight.update(submit())


@contextmanager
def _client(options: Options) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if options.scheduler:
        with Client(options.scheduler, set_as_default=False) as client:
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
