"""What it takes to read from behind URLs, decided with the plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from anamnesis.limits import MiB
from anamnesis.pipeline.work import Task, Work
from anamnesis.readers.source import is_url

MOST_BYTES = 64 * MiB  # fetched ahead for a thread: a second at half a gigabit, 50 ms at ten
# A block that is wanted before its turn, and what is read without notice; of a thread.
THREAD_BYTES = 8 * MiB
# Drivers, and the buffers of as many connections as are used at a time.
PROCESS_BYTES = 64 * MiB

T = TypeVar("T", bound=Task)


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory of a run besides its windows: `base` of the process, `each` of a thread."""

    base: int
    each: int

    def ahead_bytes(self, room_bytes: int) -> int:
        """What a thread with room for so many bytes besides its windows has fetched ahead."""
        return max(0, min(room_bytes - self.each, MOST_BYTES)) if self.each else 0

    def shared(self, tasks: Sequence[T], room_bytes: int, threads: int) -> tuple[T, ...]:
        """The tasks with what each may have fetched ahead.

        `room_bytes` are of all `threads`, which have room for their widest task and `each`.
        """
        if not self.each or not tasks:
            return tuple(tasks)
        widest = max(task.memory_bytes for task in tasks)
        nbytes = self.ahead_bytes(room_bytes // threads - widest)
        return tuple(
            replace(t, ahead_bytes=nbytes, memory_bytes=t.memory_bytes + nbytes + self.each)
            for t in tasks
        )


def reading(paths: Iterable[str]) -> Reading:
    """For inputs at `paths`."""
    remote = any(map(is_url, paths))
    return Reading(PROCESS_BYTES, THREAD_BYTES) if remote else Reading(0, 0)


def reading_of(pieces: Iterable[Work]) -> Reading:
    """For what pieces read."""
    tensors = {id(tensor): tensor for piece in pieces for tensor in piece.tensors}
    return reading(c.stored.file.path for t in tensors.values() for c in t.components)
