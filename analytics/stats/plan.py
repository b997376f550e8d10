"""How a model goes through `stats`: leaves of values, cut where every format cuts them.

A *leaf* is 64 MiB of a tensor's decoded values; all but the last of a tensor are whole. What is
found of a leaf is put together in order, and neither windows nor workers nor the stored format
change where leaves begin. Units (matrix rows, blocks) do not end where leaves do: those on an edge
are decoded for both sides, and each value counts for one.
"""

from __future__ import annotations

from dataclasses import dataclass

from anamnesis.analytics.reduction import Reduction, plan_reduction
from anamnesis.analytics.stats.task import LeafPiece
from anamnesis.limits import Limits, MiB
from anamnesis.pipeline.plan import (
    TASK_BYTES,
    Spec,
    Step,
    charge_tensor,
    is_deflated,
    out_dtype_of,
    step_for,
    value_bytes,
    with_dtype,
)
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import Model

LEAF_BYTES = 64 * MiB


@dataclass(frozen=True, slots=True)
class StatsPlan(Reduction):
    """All tasks of one model; `tensors` have the dtype that their values are decoded to."""

    model: Model
    tensors: tuple[Tensor, ...]


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
    pieces = [piece for tensor in tensors for piece in _leaves(step_for(tensor))]
    plan = plan_reduction("stats", pieces, TASK_BYTES, memory_bytes=memory_bytes, threads=threads)
    return StatsPlan(plan.tasks, plan.threads, plan.memory_bytes, model, tensors)


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
