"""What the tasks of a run read, asked for ahead of them: fetched from behind URLs, or of a disk.

Within one process the tasks share what is fetched ahead: while one is decoded, the bytes of those
after it are on their way, so that neither the beginning of a task nor its end waits for a server.
A worker of a cluster, which is told of one task at a time, fetches ahead within it.

Of a disk the system itself reads ahead, but no further than a task goes, which then begins with a
wait; so it is told, while others run, where the next one begins.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from anamnesis.limits import MiB
from anamnesis.pipeline.reads import local_ranges_of, ranges_of
from anamnesis.pipeline.work import Task
from anamnesis.readers.source import ask_for

if TYPE_CHECKING:
    from anamnesis.readers.ahead import ReadAhead

_current: ContextVar[Ahead | None] = ContextVar("ahead", default=None)
_next: ContextVar[Mapping[str, Task]] = ContextVar("next", default=MappingProxyType({}))

# Of a task that is next, at most, and in so many ranges.
NEXT_BYTES, NEXT_RANGES = 16 * MiB, 16


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
        following = zip(tasks, tasks[threads:], strict=False)
        place = _next.set({task.key: after for task, after in following})
        try:
            yield lambda task: None
        finally:
            _next.reset(place)
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
        following = _next.get().get(task.key)
        if following is not None:
            _ask_for(following)
        yield None
        return
    ahead = ahead or _current.get() or Ahead([task], 1)
    with ahead.of(task) as blocks:
        yield blocks


def _ask_for(task: Task) -> None:
    """Let the system begin to read what a task begins with, in files of this machine."""
    left, wanted = NEXT_BYTES, dict[str, list[tuple[int, int]]]()
    for file, start, stop, _ in islice(local_ranges_of(task), NEXT_RANGES):
        if left > 0:
            wanted.setdefault(file.path, []).append((start, min(stop - start, left)))
            left -= stop - start
    for path, ranges in wanted.items():
        ask_for(os.path.join(task.origin, path), ranges)
