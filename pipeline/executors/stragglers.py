"""Tasks that do not come back, though everything else did: they are given to another worker too.

A worker that hangs, or is many times slower than others, would have the end of a run wait for it;
Dask gives up only those that it hears nothing of for five minutes. A task may run twice, as what it
writes is the same: the first answer counts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from anamnesis.pipeline.plan import Task

LEAST_SECONDS = 60.0  # without an answer of any task
TIMES = 3.0  # what the longest task took so far


class Stragglers:
    """Knows when nothing has come for too long, and what was sent a second time."""

    def __init__(self) -> None:
        self._heard = time.monotonic()
        self._longest = 0.0
        self._twice: set[str] = set()

    def heard(self, seconds: float) -> None:
        """A task has come back, which took so long on its worker."""
        self._heard = time.monotonic()
        self._longest = max(self._longest, seconds)

    @property
    def waited(self) -> bool:
        """Whether nothing has come for too long."""
        return time.monotonic() - self._heard > max(LEAST_SECONDS, TIMES * self._longest)

    def elsewhere(
        self,
        flying: Mapping[str, Task],
        processing: Mapping[str, Collection[str]],
        workers: Sequence[str],
    ) -> Iterator[tuple[Task, list[str]]]:
        """What is to be sent again, once each, with the workers that do not have it.

        `flying` are tasks by the keys of their futures, `processing` those keys by worker.
        """
        self._heard = time.monotonic()
        for key, task in list(flying.items()):
            having = {worker for worker, keys in processing.items() if key in keys}
            others = [worker for worker in workers if worker not in having]
            if having and others and task.key not in self._twice:
                self._twice.add(task.key)
                yield task, others


__all__ = ["Stragglers"]
