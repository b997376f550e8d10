"""How a model goes through `stats`: leaves of values, cut where every format cuts them.

A *leaf* is 64 MiB of a tensor's decoded values; all but the last of a tensor are whole. What is
found of a leaf is put together in order, and neither windows nor workers nor the stored format
change where leaves begin. Units (matrix rows, blocks) do not end where leaves do: those on an edge
are decoded for both sides, and each value counts for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from anamnesis.analytics.stats.task import LeafPiece, StatsTask
from anamnesis.limits import Limits, MiB
from anamnesis.pipeline.plan import (
    BASE_BYTES,
    TASK_BYTES,
    TASK_PIECES,
    Spec,
    Step,
    charge_tensor,
    fit_threads,
    is_deflated,
    out_dtype_of,
    step_for,
    value_bytes,
    with_dtype,
)
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import Model
from anamnesis.readers.source import is_url

LEAF_BYTES = 64 * MiB
# Counters and what numpy makes of them, or of a window of integers: 9 MiB; and scales as float32.
REDUCER_BYTES = 16 * MiB


@dataclass(frozen=True, slots=True)
class StatsPlan:
    """All tasks of one model; `tensors` have the dtype that their values are decoded to."""

    model: Model
    tensors: tuple[Tensor, ...]
    tasks: tuple[StatsTask, ...]
    threads: int
    memory_bytes: int  # projected peak of one process

    @property
    def value_bytes(self) -> int:
        return sum(task.out_bytes for task in self.tasks)


def make_stats_plan(
    model: Model,
    *,
    dtype: str | None,
    memory_bytes: int,
    threads: int,
    limits: Limits,
) -> StatsPlan:
    """Cut a model into tasks; `dtype` is that of the values, as in `Spec`.

    Raises LimitError when a tensor or all values are over `limits`, or one window of one tensor
    does not fit in `memory_bytes`; uses fewer than `threads` threads when only so many fit.
    """
    spec = Spec("", dtype=dtype)
    tensors = tuple(with_dtype(t, out_dtype_of(t, spec)) for t in model.tensors)
    for tensor in tensors:
        charge_tensor(tensor, limits)
    limits.total(sum(map(value_bytes, tensors)), f"{model.path}: values")
    steps = [_step(tensor) for tensor in tensors]
    threads = fit_threads(steps, memory_bytes - BASE_BYTES, memory_bytes, threads)
    tasks = _group([piece for step in steps for piece in _leaves(step)])
    widest = max((t.memory_bytes for t in tasks), default=0)
    return StatsPlan(model, tensors, tasks, threads, BASE_BYTES + threads * widest)


def _step(tensor: Tensor) -> Step:
    step = step_for(tensor)
    return replace(step, memory_bytes=step.memory_bytes + REDUCER_BYTES)


def _leaves(step: Step) -> list[LeafPiece]:
    tensor, elems = step.tensor, step.tensor.elems
    if not elems:
        return []
    grain = tensor.unit_elems * tensor.unit_multiple  # where windows may start and end
    stride = leaf = LEAF_BYTES // step.itemsize
    if is_deflated(tensor) or grain > leaf // 8:
        stride = elems
    found = []
    for first in range(0, elems, stride):
        last = min(first + stride, elems)
        start = first // grain * tensor.unit_multiple
        stop = min(-(-last // grain) * tensor.unit_multiple, tensor.units)
        found.append(LeafPiece(step, start, stop, first, last, leaf))
    return found


def _group(pieces: Sequence[LeafPiece]) -> tuple[StatsTask, ...]:
    tasks: list[StatsTask] = []
    group: list[LeafPiece] = []
    filled = 0

    def close() -> None:
        nonlocal group, filled
        if group:
            memory = max(piece.step.memory_bytes for piece in group)
            key = f"stats-{len(tasks):06d}"
            # Where an output would be: a folder that workers see anyway, as it holds the input.
            path = group[0].step.tensor.components[0].stored.file.path
            part = "/" if is_url(path) else path
            tasks.append(StatsTask(key, 0, part, tuple(group), filled, memory))
        group, filled = [], 0

    for piece in pieces:
        nbytes = (piece.last - piece.first) * piece.step.itemsize
        if filled + nbytes > TASK_BYTES or len(group) >= TASK_PIECES:
            close()
        group.append(piece)
        filled += nbytes
    close()
    return tuple(tasks)
