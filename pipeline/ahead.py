"""What the tasks of a run read from behind URLs, fetched ahead of them.

Within one process the tasks share what is fetched ahead: while one is decoded, the bytes of those
after it are on their way, so that neither the beginning of a task nor its end waits for a server.
A worker of a cluster, which is told of one task at a time, fetches ahead within it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from anamnesis.pipeline.reads import ranges_of
from anamnesis.pipeline.work import Task

if TYPE_CHECKING:
    from anamnesis.readers.ahead import ReadAhead

_current: ContextVar[Ahead | None] = ContextVar("ahead", default=None)


class Ahead:
    """What is fetched for the tasks of a process, in their order."""

    def __init__(self, tasks: Sequence[Task], threads: int) -> None:
        from anamnesis.readers.ahead import ReadAhead

        self._tasks = tasks
        self._next = 0
        self._added: set[str] = set()
        self._done: set[str] = set()
        self._lock = threading.Lock()
        self.blocks: ReadAhead = ReadAhead(threads * max(t.ahead_bytes for t in tasks))

    @contextmanager
    def of(self, task: Task) -> Iterator[ReadAhead]:
        """While a task runs; what it left is let go of at the end."""
        self._add(task)
        self._fill()
        try:
            yield self.blocks
        finally:
            self.skip(task)

    def skip(self, task: Task) -> None:
        """A task reads nothing, or nothing any more."""
        with self._lock:
            self._done.add(task.key)
        self.blocks.drop(task.key)
        self._fill()

    def _fill(self) -> None:
        """Announce tasks while there is room for what they read."""
        while self.blocks.has_room:
            with self._lock:
                if self._next == len(self._tasks):
                    return
                task = self._tasks[self._next]
                self._next += 1
                if task.key in self._done:
                    continue
            self._add(task)

    def _add(self, task: Task) -> None:
        with self._lock:
            if task.key in self._added:
                return
            self._added.add(task.key)
        self.blocks.add(task.key, ranges_of(task))
        with self._lock:
            late = task.key in self._done
        if late:
            self.blocks.drop(task.key)


@contextmanager
def reading_ahead(tasks: Sequence[Task], threads: int) -> Iterator[Callable[[Task], None]]:
    """While this lasts, `run_task` in this context reads what was fetched ahead for `tasks`.

    Gives a function that says of a task that it is not done after all.
    """
    if not any(task.ahead_bytes for task in tasks):
        yield lambda task: None
        return
    ahead = Ahead(tasks, threads)
    token = _current.set(ahead)
    try:
        yield ahead.skip
    finally:
        _current.reset(token)
        ahead.blocks.close()


@contextmanager
def ahead_of(task: Task, ahead: Ahead | None = None) -> Iterator[ReadAhead | None]:
    """What is fetched ahead for a task; None when it reads nothing from behind URLs."""
    if not task.ahead_bytes:
        yield None
        return
    ahead = ahead or _current.get() or Ahead([task], 1)
    with ahead.of(task) as blocks:
        yield blocks
