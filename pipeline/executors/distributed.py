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

    with _client(options) as client:
        waiting = iter(tasks)
        sizes: dict[str, int] = {}
        flight = as_completed(with_results=True, raise_errors=True)

        def fill() -> None:
            while sum(sizes.values()) < options.in_flight_bytes or not sizes:
                task = next(waiting, None)
                if task is None:
                    return
                future = client.submit(run_task, task, pure=False)
                sizes[future.key] = task.out_bytes
                flight.add(future)

        fill()
        for future, receipt in flight:
            del sizes[future.key]
            future.release()
            on_done(receipt)
            fill()


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
