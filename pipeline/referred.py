"""Large tasks, sent by reference: what a packed file's task names lies beside the file itself.

A file that is packed while it is decoded is one task, which names every tensor of it: some 400
bytes each, megabytes for a file of many. The scheduler and the worker get a record of a few hundred
bytes instead, and the worker reads the task from the store that it writes to. That is a pickle, and
who may write to a bucket may not run code on workers: its SHA-256 comes with the record, by way of
the scheduler, and nothing else is unpickled.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass

from anamnesis.errors import IntegrityError
from anamnesis.limits import KiB
from anamnesis.pipeline.task import Receipt, run_task
from anamnesis.pipeline.work import TASK_PIECES, Task, WriteTask
from anamnesis.writers.stores import StorePath, located, store_of

MOST_BYTES = 64 * KiB  # of a task as it is; what has few pieces is not even counted


@dataclass(frozen=True, slots=True)
class ReferredTask(Task):
    """A task whose pickle of `nbytes` is the object `plan-KEY` in the folder of its `part`."""

    part: str
    nbytes: int
    sha256: str


def by_reference(task: Task) -> Task:
    """The task itself, or what refers to it when it is large and writes to a store.

    Its unfinished file has to be there. Raises OSError.
    """
    if not isinstance(task, WriteTask) or len(task.pieces) <= TASK_PIECES:
        return task
    part = located(task.part)
    if not isinstance(part, StorePath):
        return task
    data = pickle.dumps(task)
    if len(data) <= MOST_BYTES:
        return task
    store_of(part).keep(part, _name(task), data)
    digest = hashlib.sha256(data).hexdigest()
    return ReferredTask(
        task.key,
        (),
        task.work_bytes,
        task.memory_bytes,
        str(part),
        len(data),
        digest,
        origin=task.origin,
    )


@run_task.register
def run_referred_task(task: ReferredTask, cancelled: Callable[[], bool] | None = None) -> Receipt:
    """Do the task that is meant. IntegrityError when what lies there is another one."""
    part = located(task.part)
    path = part / _name(task)
    data = store_of(part).read(path, task.nbytes)
    if hashlib.sha256(data).hexdigest() != task.sha256:
        raise IntegrityError(f"{path}: is not the task that was sent")
    return run_task(pickle.loads(data), cancelled)


def _name(task: Task) -> str:
    return f"plan-{task.key}"


__all__ = ["ReferredTask", "by_reference"]
