"""A Dask cluster: tasks are submitted by a window of bytes in flight; receipts come back.

Submission is windowed by the client. Restricting tasks by `resources=` would bypass the
scheduler's own queueing (`is_rootish` in distributed/scheduler.py), and submitting everything at
once would let one worker hoard what others could do. A task may run more than once, even at
the same time; it writes the same bytes to the same place, so that does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from anamnesis import stopping
from anamnesis.errors import UsageError
from anamnesis.pipeline.executors import Listener, Options, SchedulerError
from anamnesis.pipeline.executors.greeting import Greeting
from anamnesis.pipeline.executors.scheduler import connected
from anamnesis.pipeline.executors.stragglers import Stragglers
from anamnesis.pipeline.plan import TASK_BYTES, Task
from anamnesis.pipeline.referred import by_reference
from anamnesis.pipeline.task import Receipt, run_task

TRIES = 3  # of a task that the file system failed; other errors come again with certainty
AHEAD = 2  # tasks in flight for every thread of the cluster
POLL_SECONDS = 2.0
# Until a cluster of ours replaces a worker that its nanny is about to start again. Dask's 15 s are
# less than a slow machine needs: the nanny is closed, its worker joins all the same when it has
# started, and until that is stopped the one in its place is refused, as its name is taken.
LOST_WORKER = {"distributed.deploy.lost-worker-timeout": "10 minutes"}
GIVEN_UP_SECONDS = 900.0  # a cluster of ours that has no worker for so long gets none any more
CLOSE_SECONDS = 60.0  # for such a cluster to end, when the run has


def run(tasks: Sequence[Task], options: Options, listener: Listener) -> None:
    """Run `tasks` on the cluster at `options.scheduler`, or on a LocalCluster of processes.

    Raises OSError when the scheduler cannot be reached or is lost, LimitError when a worker has
    too little memory, UsageError when one has another version or does not see the files.
    """
    if not tasks:
        return
    with _quiet(), _client(options) as (client, revive):
        flight = Flight(client, options.in_flight_bytes, listener, revive)
        flight.greet(tasks)
        with stopping.waking(flight.wake):
            flight.run(tasks)


class Flight:
    """Tasks on their way, and those that wait for room."""

    def __init__(
        self,
        client: Any,
        in_flight_bytes: int,
        listener: Listener,
        revive: Callable[[], object] | None = None,
    ) -> None:
        self._client = client
        self._revive = revive
        self._address = client.scheduler.address
        self._listener = listener
        self._least_bytes = in_flight_bytes
        self._room = in_flight_bytes
        self._threads = -1
        self._workers: list[str] = []
        self._greeting: Greeting | None = None
        self._looked = time.monotonic()
        self._alone_since = 0.0  # when the last worker was seen to be gone; 0 while there are some
        self._origin = os.getcwd()
        self._waiting: list[Task] = []  # the next one last
        self._flying: dict[str, Task] = {}  # by the keys of their futures
        self._futures: dict[str, Any] = {}
        self._stragglers = Stragglers()
        self._flying_bytes = 0
        self._landed: SimpleQueue[Any] = SimpleQueue()
        self._tries: dict[str, int] = {}
        self._suspects: list[Task] = []

    def greet(self, tasks: Sequence[Task]) -> None:
        """Ask the workers that are there whether they can do the tasks at all.

        Those that join later are asked then, but in a cluster of ours, which are alike.
        """
        greeting = Greeting(self._client, tasks, self._origin)
        link = _dashboard(self._client)
        self._listener.note(f"scheduler {self._address}, dashboard {link}")
        self._look()
        while not self._threads and self._revive is not None:
            stopping.check()
            time.sleep(POLL_SECONDS / 10)
            self._look()
        greeting.ask(self._workers)
        if self._revive is None:  # an adaptive cluster may have no worker before it has a task
            self._greeting = greeting

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all tasks that are wanted.

        A worker that dies takes the tasks down with it that it was given, and Dask gives up a task
        that was on too many dead workers, guilty or not. Such suspects run again at the end,
        one at a time, so that only the guilty ones fail.
        """
        self._waiting = list(reversed(tasks))
        self._work()
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            self._waiting = [suspect]
            self._work()
            for task in self._suspects:
                error = ChildProcessError(f"{_names(task)}: every worker that was given it died")
                self._listener.failed(task, error)
            self._suspects = []

    def wake(self) -> None:
        """Have `run` look whether it is to end; from any thread."""
        self._landed.put(None)

    def _work(self) -> None:
        self._fill()
        while self._flying:
            try:
                landed = [self._landed.get(timeout=POLL_SECONDS)]
            except Empty:
                self._meet()
                self._send_again()
                continue
            finally:
                stopping.check()
            while not self._landed.empty():
                landed.append(self._landed.get())
            landed = [future for future in landed if future is not None]  # those of `wake`
            if time.monotonic() - self._looked > POLL_SECONDS:
                self._meet()
            for task, result in self._results(landed):
                self._land(task, result)
            self._fill()

    def _fill(self) -> None:
        """Submit waiting tasks while there is room; one always flies."""
        while self._waiting:
            task = self._waiting[-1]
            if self._flying and self._flying_bytes + _charge(task) > self._room:
                break
            self._waiting.pop()
            if self._listener.wanted(task):
                self._send(task)

    def _send_again(self) -> None:
        """Have other workers do what does not come back."""
        if not self._stragglers.waited:
            return
        try:
            processing = self._client.processing()
        except OSError as error:
            raise self._lost() from error
        for task, others in self._stragglers.elsewhere(self._flying, processing, self._workers):
            self._listener.note(f"{_names(task)}: does not come back; another worker does it too")
            self._send(task, workers=others, allow_other_workers=True)

    def _send(self, task: Task, **where: Any) -> None:
        self._tries[task.key] = self._tries.get(task.key, 0) + 1
        try:
            sent = by_reference(replace(task, origin=self._origin))
        except OSError as error:
            self._listener.failed(task, error)
            return
        future = self._client.submit(run_task, sent, pure=False, **where)
        self._flying[future.key], self._futures[future.key] = task, future
        self._flying_bytes += _charge(task)
        future.add_done_callback(self._landed.put)

    def _results(self, landed: Sequence[Any]) -> Iterator[tuple[Task, Receipt | Exception]]:
        """What became of futures; their receipts are fetched together.

        A receipt may be lost with its worker before it is fetched: Dask does its task again then.
        Of one that is here nothing is left on the cluster that a worker's death could bring back.
        Of two of one task the first receipt counts, and an error only when the other has one too.
        """
        landed = [future for future in landed if future.key in self._flying]
        futures = [future for future in landed if future.status == "finished"]
        try:
            receipts = dict(zip([f.key for f in futures], self._fetch(futures), strict=True))
        except SchedulerError:
            raise
        except (Exception, asyncio.CancelledError):
            receipts = {}  # each by itself tells which one failed, and how
        for future in landed:
            if future.key not in self._flying:  # the other was in time
                continue
            task = self._forget(future.key)
            again = [key for key, other in self._flying.items() if other.key == task.key]
            try:
                result: Receipt | Exception = receipts.get(future.key) or self._fetch([future])[0]
            except SchedulerError:
                raise
            except (Exception, asyncio.CancelledError) as error:
                if future.status != "error" or not isinstance(error, Exception):
                    raise self._lost() from error
                result = error
            future.release()
            if isinstance(result, Receipt):
                self._stragglers.heard(result.seconds)
                for key in again:
                    self._futures[key].release()
                    self._forget(key)
            elif again:
                continue
            yield task, result

    def _forget(self, key: str) -> Task:
        """A future counts no more; its task."""
        del self._futures[key]
        task = self._flying.pop(key)
        self._flying_bytes -= _charge(task)
        return task

    def _fetch(self, futures: Sequence[Any]) -> list[Receipt]:
        """Gather, without waiting for a scheduler that is gone.

        Workers are looked after meanwhile: a receipt whose worker died waits for another one.
        """
        coroutine = self._client.gather(futures, asynchronous=True)
        fetching = asyncio.run_coroutine_threadsafe(coroutine, self._client.loop.asyncio_loop)
        try:
            while not wait([fetching], timeout=POLL_SECONDS).done:
                stopping.check()
                self._look()
            stopping.check()
            return list(fetching.result())
        finally:
            fetching.cancel()

    def _lost(self) -> SchedulerError:
        # Closing the client in the ordinary way waits for the scheduler to come back.
        with suppress(Exception):
            self._client.sync(self._client._close, fast=True, callback_timeout=5)
        return SchedulerError(
            f"the scheduler {self._address} was lost; run the job again to go on where it was"
        )

    def _land(self, task: Task, result: Receipt | Exception) -> None:
        from distributed import KilledWorker

        if isinstance(result, Receipt):
            self._listener.done(result)
        elif isinstance(result, KilledWorker):
            self._suspects.append(task)
        elif isinstance(result, OSError) and self._tries[task.key] < TRIES:
            self._send(task)
        else:
            self._meet()  # it may be a worker that joined just now, and cannot do it at all
            self._listener.failed(task, result)

    def _meet(self) -> None:
        """Ask workers that joined; raises as `Greeting.ask` for one that cannot do the tasks."""
        self._look()
        if self._greeting is not None:
            self._greeting.ask(self._workers)

    def _look(self) -> None:
        """See how many threads there are now; workers come and go."""
        if self._client.status != "running":
            raise self._lost()
        try:
            there = self._client.nthreads()
        except OSError as error:  # of its connection, before the client itself has heard of it
            raise self._lost() from error
        threads, self._workers = sum(there.values()), list(there)
        if threads != self._threads:
            text = f"{threads} worker thread(s)" if threads else "no workers: waiting for some"
            self._listener.note(text)
            self._threads = threads
        now = self._looked = time.monotonic()
        self._alone_since = 0.0 if threads else self._alone_since or now
        if self._revive is not None:
            self._revive()
            if self._alone_since and now - self._alone_since > GIVEN_UP_SECONDS:
                raise SchedulerError(
                    f"no worker of the cluster of this run came back in {GIVEN_UP_SECONDS:.0f} s; "
                    "run the job again to go on where it was"
                )
        self._room = max(self._least_bytes, AHEAD * threads * TASK_BYTES)


def _charge(task: Task) -> int:
    """Bytes in flight of a task: it writes as it goes, and holds no more, however much it makes."""
    return min(task.work_bytes, TASK_BYTES)


def _names(task: Task) -> str:
    names = list(dict.fromkeys(t.name for piece in task.pieces for t in piece.tensors[:1]))
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _dashboard(client: Any) -> str:
    try:
        return str(client.dashboard_link)
    except KeyError:  # the scheduler was started without one
        return "none"


# The last two tell of workers that do not start, whose exceptions nobody waits for.
_LOGGERS = ("distributed", "distributed.client", "asyncio", "tornado.application")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's logs from between the reports, unless the caller set them to debug.

    A worker that dies or a scheduler that is lost is told by this module, in one line.
    """
    import distributed  # noqa: F401 - sets up its loggers

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    if any(logger.isEnabledFor(logging.DEBUG) for logger in loggers):
        yield
        return
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _client(options: Options) -> Iterator[tuple[Any, Callable[[], object] | None]]:
    """A client, and how to bring back workers of a cluster that is ours."""
    import dask
    from distributed import Client, LocalCluster

    if options.scheduler:
        with connected(options.scheduler) as client:
            yield client, None
        return
    try:
        cluster = LocalCluster(
            n_workers=options.threads,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:
        raise UsageError(
            f"the workers of a cluster on this machine did not start: {error} In a script, call "
            'under `if __name__ == "__main__":`, as each worker imports it'
        ) from error
    with (
        dask.config.set(LOST_WORKER),
        _ending(cluster),
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, lambda: cluster.loop.add_callback(_replace_failed, cluster, options.threads)


@contextmanager
def _ending(cluster: Any) -> Iterator[None]:
    """Close a cluster of ours behind a run; workers that do not end by then are killed."""
    try:
        yield
    finally:
        try:
            cluster.close(CLOSE_SECONDS)
        except Exception:  # it is of no more use, and nannies may wait for each other
            for nanny in cluster.workers.values():
                if nanny.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(nanny.pid, signal.SIGKILL)


_ENDED = ("closed", "failed")  # distributed.Status of a nanny that starts no worker any more


async def _replace_failed(cluster: Any, workers: int) -> None:
    """Have a cluster of ours so many workers again; runs in its loop.

    A nanny whose worker could not start closes itself, and stays in the cluster: Dask's own
    replacing waits for workers that leave the scheduler, which that one never joined.
    """
    failed = [name for name, nanny in cluster.workers.items() if nanny.status.name in _ENDED]
    if failed:  # their names are free when they are gone: not before the next call
        with suppress(Exception):  # of another that does not start; it is in the next call's list
            await cluster.scale_down(failed)
    else:
        cluster.scale(workers)
