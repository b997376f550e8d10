"""The function that workers run for statistics: decode windows, count them, keep nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from anamnesis.analytics.stats.scales import Range, ScaleRange
from anamnesis.analytics.stats.values import Partial, reducer
from anamnesis.pipeline.plan import Piece, Task
from anamnesis.pipeline.task import Receipt, run_task
from anamnesis.pipeline.windows import Windows
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.files import Files
from anamnesis.readers.raw import SpanCrc


@dataclass(frozen=True, slots=True)
class LeafPiece(Piece):
    """Elements `[first, last)`, whole leaves of `leaf_elems`; the units may hold a few more."""

    first: int
    last: int
    leaf_elems: int


@dataclass(frozen=True, slots=True)
class StatsTask(Task):
    """Leaves of one or more tensors; nothing is written.

    Defined where `run_task` learns what does it: a worker imports this module to have the class.
    """


@dataclass(frozen=True, slots=True)
class Leaf:
    """What was found of leaf `number` of a tensor; `xxh3` is the xxh3-128 of its value bytes."""

    tensor: str
    number: int
    xxh3: bytes
    partial: Partial
    scales: Range | None


@dataclass(frozen=True, slots=True)
class StatsReceipt(Receipt):
    """A receipt with what the task found; `out_bytes` are value bytes, written nowhere."""

    leaves: tuple[Leaf, ...] = ()


@run_task.register
def run_stats_task(task: StatsTask, cancelled: Callable[[], bool] | None = None) -> StatsReceipt:
    """Do a task. Raises the package's errors and OSError; Cancelled when asked to stop."""
    begin = time.perf_counter()
    files = Files(task.origin)
    leaves: list[Leaf] = []
    spans: list[SpanCrc] = []
    read_bytes = 0
    try:
        for piece in task.pieces:
            if not isinstance(piece, LeafPiece):
                raise TypeError(f"{piece.step.tensor.name}: a piece without its leaves")
            read_bytes += _run_piece(piece, files, cancelled, leaves, spans)
        files.check_unchanged()
    finally:
        files.close()
    seconds = time.perf_counter() - begin
    return StatsReceipt(
        task.key, 0, read_bytes, task.out_bytes, seconds, (), tuple(spans), tuple(leaves)
    )


def _run_piece(
    piece: LeafPiece,
    files: Files,
    cancelled: Callable[[], bool] | None,
    leaves: list[Leaf],
    spans: list[SpanCrc],
) -> int:
    step = piece.step
    tensor, whole = step.tensor, piece.leaf_elems
    windows = Windows(step, files)
    scales = ScaleRange(tensor, windows.reader)
    counts, digest = reducer(step.dtype), xxhash.xxh3_128()
    kind = DTYPES[step.dtype].numpy
    at = piece.first
    for window, views, found in windows.over(piece.start, piece.stop, cancelled):
        scales.add(views, window)
        values = found.view(kind)[at - window.start * tensor.unit_elems :][: piece.last - at]
        while len(values):
            some = values[: whole - at % whole]
            digest.update(some)
            counts.add(some)
            values, at = values[len(some) :], at + len(some)
            if at % whole == 0 or at == piece.last:
                number = (at - 1) // whole
                leaves.append(
                    Leaf(tensor.name, number, digest.digest(), counts.take(), scales.found)
                )
                digest.reset()
    spans += windows.spans()
    return windows.read_bytes
