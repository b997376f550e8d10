"""A client of a cluster that is none, for what hands it tasks, and a listener that keeps count."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anamnesis
from anamnesis.pipeline.plan import Task
from anamnesis.pipeline.task import Receipt, run_task

Answer = Callable[[Task, int], Any]  # from a task and how often it was sent before


def receipt(task: Task) -> Receipt:
    return Receipt(task.key, 0, task.work_bytes, 0.0, ())


class Future:
    """As far as `Flight` looks at one."""

    def __init__(self, key: str, work: Any) -> None:
        self.key = key
        self._work = work
        self._failed: dict[type[BaseException], str] = {CancelledError: "cancelled"}
        self.released = False

    @property
    def status(self) -> str:
        error = self._work.exception(timeout=10)
        return "finished" if error is None else self._failed.get(type(error), "error")

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self._work.add_done_callback(lambda work: call(self))

    @property
    def is_done(self) -> bool:
        return bool(self._work.done())

    def result(self) -> Any:
        return self._work.result(timeout=10)

    def release(self) -> None:
        self.released = True


class Client:
    """Answers tasks from two threads, and keeps count of what it was sent."""

    def __init__(self, answer: Answer, threads: int = 2) -> None:
        self.scheduler = SimpleNamespace(address="tcp://nowhere:1")
        self.dashboard_link = "http://nowhere:2/status"
        self.status = "running"
        self.threads = threads
        self.memory_limit = 0
        self.names = ["tcp://worker:3"]
        self.asked: list[list[str]] = []
        self.says: Any = (anamnesis.__version__, "")
        self.sent: list[Task] = []
        self.futures: list[Future] = []
        self.where: list[dict[str, Any]] = []
        self.flying = self.most_flying = 0
        self._answer = answer
        self._pool = ThreadPoolExecutor(2)
        self.loop = SimpleNamespace(asyncio_loop=asyncio.new_event_loop())
        self._thread = threading.Thread(target=self.loop.asyncio_loop.run_forever)
        self._thread.start()

    def submit(self, function: Any, task: Task, *, pure: bool, **where: Any) -> Future:
        assert function is run_task
        assert not pure
        self.where.append(where)
        before = sum(sent.key == task.key for sent in self.sent)
        self.sent.append(task)
        self.flying += task.work_bytes
        self.most_flying = max(self.most_flying, self.flying)
        self.futures.append(
            Future(f"{task.key}-{before}", self._pool.submit(self._do, task, before))
        )
        return self.futures[-1]

    def _do(self, task: Task, before: int) -> Any:
        try:
            answer = self._answer(task, before)
        finally:
            self.flying -= task.work_bytes
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def gather(self, futures: Sequence[Future], *, asynchronous: bool) -> list[Any]:
        return [future.result() for future in futures]

    def processing(self) -> dict[str, list[str]]:
        """All of it by the first worker."""
        return {self.names[0]: [future.key for future in self.futures if not future.is_done]}

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.names, self.threads)

    def scheduler_info(self, *, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1  # all of them
        worker = {"nthreads": self.threads, "memory_limit": self.memory_limit}
        return {"workers": dict.fromkeys(self.names, worker)}

    def run(
        self, function: Any, *arguments: Any, workers: Sequence[str], on_error: str
    ) -> dict[str, Any]:
        self.asked.append(list(workers))
        said = self.says() if callable(self.says) else self.says
        return dict.fromkeys(workers, said)

    def close(self) -> None:
        self._pool.shutdown()
        self.loop.asyncio_loop.call_soon_threadsafe(self.loop.asyncio_loop.stop)
        self._thread.join()
        self.loop.asyncio_loop.close()


class Recorder:
    def __init__(self) -> None:
        self.receipts: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.notes: list[str] = []

    def wanted(self, task: Task) -> bool:
        return True

    def done(self, receipt: Receipt) -> None:
        self.receipts.append(receipt.key)

    def failed(self, task: Task, error: Exception) -> None:
        self.errors[task.key] = error

    def note(self, text: str) -> None:
        self.notes.append(text)
