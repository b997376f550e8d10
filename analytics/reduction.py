"""Jobs that read models and write nothing: their settings, tasks, runs and archive checks.

`stats` and `diff` bring what differs: how tensors are cut into pieces, what a piece is reduced to,
and how the findings of pieces are put together. A piece is a record that travels to a worker, and
has a `reduce`; what it returns travels back in the receipt of its task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from anamnesis.keywords import Executor, PathLike, Patterns
from anamnesis.limits import Limits
from anamnesis.pipeline.executors import Options as ExecutorOptions
from anamnesis.pipeline.executors import executor, options_for, receipts_of
from anamnesis.pipeline.fit import fit_tasks
from anamnesis.pipeline.members import check_members
from anamnesis.pipeline.progress import Progress
from anamnesis.pipeline.sections import Dtype, Run, Select, Text
from anamnesis.pipeline.task import Receipt, run_task
from anamnesis.pipeline.validate import build
from anamnesis.pipeline.windows import Inputs, inputs_of
from anamnesis.pipeline.work import Task, Work, load, pack
from anamnesis.readers.base import Member, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.model import Model
from anamnesis.readers.paths import expand
from anamnesis.readers.patterns import patterns
from anamnesis.readers.raw import SpanCrc
from anamnesis.sizes import parse_size


class Reducible(Work, Protocol):
    """A piece of work that knows how it is done; small and picklable."""

    def reduce(self, inputs: Inputs) -> Any:
        """Read, decode and reduce the piece; the finding is small and picklable too."""
        ...


@dataclass(frozen=True, slots=True)
class ReduceTask(Task):
    """Pieces whose findings come back in a receipt; nothing is written."""

    pieces: tuple[Reducible, ...]


@dataclass(frozen=True, slots=True)
class ReduceReceipt(Receipt):
    """What a task found, a finding a piece."""

    found: tuple[Any, ...]


@run_task.register
def run_reduce_task(task: ReduceTask, cancelled: Callable[[], bool] | None = None) -> ReduceReceipt:
    """Reduce the pieces of a task one after the other."""
    begin = time.perf_counter()
    with inputs_of(task, cancelled) as inputs:
        found = tuple(piece.reduce(inputs) for piece in task.pieces)
    seconds = time.perf_counter() - begin
    spans = tuple(inputs.spans)
    return ReduceReceipt(task.key, inputs.read_bytes, task.work_bytes, seconds, spans, found)


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a caller asks for, checked as a job file is."""

    inputs: tuple[Text, ...]
    select: Select = Select()
    run: Run = Run()
    dtype: Dtype | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """A request with every default filled in and every size in bytes."""

    inputs: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    executor: Executor
    scheduler: str | None
    threads: int
    memory_bytes: int
    limits: Limits


def settle(
    inputs: Sequence[PathLike],
    *,
    select: tuple[Patterns, Patterns],
    dtype: str | None = None,
    limits: Limits | None,
    executor: str | None,
    scheduler: str | None,
    memory: int | str | None,
    threads: int | str,
) -> Settings:
    """The settings of a request; `select` are the patterns to include and to exclude.

    Raises UsageError, with the key.
    """
    run: dict[str, Any] = {"threads": threads, "scheduler": scheduler, "executor": executor}
    if memory is not None:
        run["memory"] = memory
    data = {
        "inputs": [os.fsdecode(path) for path in inputs],
        "select": {
            "include": patterns(select[0], "include"),
            "exclude": patterns(select[1], "exclude"),
        },
        "run": run,
        "dtype": dtype,
    }
    request = build(Request, data)
    return Settings(
        inputs=tuple(expand(path, "inputs") for path in request.inputs),
        include=tuple(patterns(request.select.include)),
        exclude=tuple(patterns(request.select.exclude)),
        executor=request.run.chosen_executor(),
        scheduler=request.run.scheduler,
        threads=request.run.worker_threads(),
        memory_bytes=parse_size(request.run.memory),
        limits=limits or Limits(),
    )


@dataclass(frozen=True, slots=True)
class Reduction:
    """All tasks of a job, and what they take."""

    tasks: tuple[ReduceTask, ...]
    threads: int
    memory_bytes: int  # projected peak of one process

    @property
    def work_bytes(self) -> int:
        return sum(task.work_bytes for task in self.tasks)


def plan_reduction(
    name: str,
    pieces: Iterable[Reducible],
    most_bytes: int,
    *,
    memory_bytes: int,
    threads: int,
) -> Reduction:
    """Pack pieces into tasks of at most `most_bytes` of values, whatever threads and memory are.

    Raises LimitError when one piece does not fit in `memory_bytes`; uses fewer than `threads`
    threads when only so many fit.
    """
    groups = enumerate(pack(pieces, most_bytes))
    tasks = tuple(ReduceTask(f"{name}-{n:06d}", group, *load(group)) for n, group in groups)
    return Reduction(*fit_tasks(tasks, memory_bytes, threads))


def reduce(
    plan: Reduction,
    settings: Settings,
    label: str,
    archives: Sequence[Sequence[Member]],
    progress: Progress,
) -> list[Any]:
    """The findings of all pieces, in the order of the pieces, whoever was first.

    `archives` are the archive entries of each model whose CRC-32 must hold. Raises the first error
    of any task, IntegrityError for such an entry.
    """
    options: ExecutorOptions = options_for(plan.threads, settings.memory_bytes, settings.scheduler)
    progress.start(plan.work_bytes, [(label, plan.work_bytes)])
    try:
        receipts = receipts_of(
            executor(settings.executor),
            plan.tasks,
            options,
            progress.note,
            lambda receipt: progress.advance(0, receipt.work_bytes),
        )
        _check_archives(archives, [span for receipt in receipts for span in receipt.spans])
    finally:
        progress.close()
    reduced = (receipt for receipt in receipts if isinstance(receipt, ReduceReceipt))
    return [found for receipt in reduced for found in receipt.found]


def _check_archives(archives: Iterable[Sequence[Member]], spans: Sequence[SpanCrc]) -> None:
    """Hold the CRC-32 of the archive entries that were read."""
    with closing(Files()) as files:
        for members in archives:
            check_members(members, spans, files)
        files.check_unchanged()


def members_of(model: Model, tensors: Iterable[Tensor]) -> list[Member]:
    """The archive entries that these tensors of a model lie in, each once."""
    if not model.members:
        return []
    views = [c.stored.view for t in tensors for c in t.components]
    return list(dict.fromkeys(v.member for v in views if v is not None and v.member is not None))
