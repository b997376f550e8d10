"""How two models go through the comparison: ranges of elements that both sides can start at.

The two sides of a pair have units and windows of their own (blocks of 256, matrix rows, 32 packed
rows at a time). A piece is a range of elements that starts at a unit of both, so a task needs
nothing but its own pieces; inside, each side streams in its own windows. As in `plan`, nothing
depends on the number of workers, so every executor adds the same numbers in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anamnesis.analytics.diff.names import Matched, Pair
from anamnesis.analytics.diff.task import DiffPiece, Side
from anamnesis.analytics.reduction import Reduction, plan_reduction
from anamnesis.errors import UnsupportedError
from anamnesis.limits import Limits
from anamnesis.pipeline.plan import TASK_BYTES, charge_tensor, is_deflated, step_for, with_dtype
from anamnesis.readers.base import Tensor
from anamnesis.readers.dtypes import DTYPES

# Elements of a window of one side: 1 MiB of float32. Narrower ones cost packed columns, which are
# decoded a batch at a time, more than what a cache gains by them.
WINDOW_ELEMS = 256 << 10
TASK_ELEMS = TASK_BYTES // 4
_NUMBERS = ("int", "bool")


@dataclass(frozen=True, slots=True)
class DiffPlan(Reduction):
    """All tasks; `skipped` are pairs that cannot be compared: `(number, why)`."""

    skipped: tuple[tuple[int, str], ...]


def make_diff_plan(
    matched: Matched, *, memory_bytes: int, threads: int, limits: Limits
) -> DiffPlan:
    """Cut the comparison of all pairs into tasks.

    Raises LimitError when a tensor is over `limits` or its windows do not fit in `memory_bytes`;
    uses fewer than `threads` threads when only so many fit.
    """
    pieces: list[DiffPiece] = []
    skipped: list[tuple[int, str]] = []
    for number, pair in enumerate(matched.pairs):
        why = _incomparable(pair)
        if why:
            skipped.append((number, why))
            continue
        for tensor in (pair.a, pair.b):
            charge_tensor(tensor, limits)
        pieces += _cut(number, pair)
    plan = plan_reduction(
        "diff", pieces, 4 * TASK_ELEMS, memory_bytes=memory_bytes, threads=threads
    )
    return DiffPlan(plan.tasks, plan.threads, plan.memory_bytes, tuple(skipped))


def _incomparable(pair: Pair) -> str:
    """Why a pair is not compared, or nothing."""
    if pair.a.shape != pair.b.shape:
        return f"shape {list(pair.a.shape)} against {list(pair.b.shape)}"
    kinds = [_kind(tensor) for tensor in (pair.a, pair.b)]
    if (kinds[0] in _NUMBERS) != (kinds[1] in _NUMBERS) or "complex" in kinds:
        return f"dtype {pair.a.out_dtype} against {pair.b.out_dtype}"
    try:
        for tensor in (pair.a, pair.b):
            _wide(tensor)
    except UnsupportedError:
        return f"dtype {pair.a.out_dtype} against {pair.b.out_dtype}"
    return ""


def _kind(tensor: Tensor) -> str:
    return "float" if tensor.quantised else DTYPES[tensor.out_dtype].kind


def _wide(tensor: Tensor) -> Tensor:
    """The tensor as float32; integers as they are."""
    return tensor if _kind(tensor) in _NUMBERS else with_dtype(tensor, "F32")


def _cut(number: int, pair: Pair) -> list[DiffPiece]:
    if not pair.a.elems:
        return []
    a, b = _side(pair.a, pair.heads_a), _side(pair.b, pair.heads_b)
    exact = _kind(pair.a) in _NUMBERS
    elems = pair.a.elems
    grain = math.lcm(*(_grain(side) for side in (a, b)))
    # A layout stored in columns is read in batches; a piece that is cut short makes shorter ones.
    target = max([TASK_ELEMS, *(s.step.batch_units * s.step.tensor.unit_elems for s in (a, b))])
    if is_deflated(pair.a) or is_deflated(pair.b) or grain > target:
        grain = target = elems
    stride = max(1, target // grain) * grain
    return [
        DiffPiece(number, start, min(start + stride, elems), a, b, exact)
        for start in range(0, elems, stride)
    ]


def _side(tensor: Tensor, heads: int) -> Side:
    step = step_for(_wide(tensor))
    head_rows = tensor.shape[0] // heads if heads else 0
    side = Side(step, head_rows)
    multiple = _grain(side) // tensor.unit_elems
    window = max(multiple, WINDOW_ELEMS // tensor.unit_elems // multiple * multiple)
    batch = max(1, step.batch_units // window) * window
    # What `step_for` counted, for a batch that may have grown to whole heads, and their copy.
    grown = max(1.0, batch / max(1, step.batch_units))
    spare = 8 * window * tensor.unit_elems
    memory = math.ceil(step.memory_bytes * grown) + spare
    return replace(
        side, step=replace(step, window_units=window, batch_units=batch, memory_bytes=memory)
    )


def _grain(side: Side) -> int:
    """Elements that a range of this side has to start at a multiple of."""
    tensor = side.step.tensor
    grain = tensor.unit_elems * tensor.unit_multiple
    if side.head_rows:
        grain = math.lcm(grain, side.head_rows * math.prod(tensor.shape[1:]))
    return grain
