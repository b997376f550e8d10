"""The first pass of an encoding run: what has to be known of a whole tensor before its windows.

It is planned like anything else: one task a tensor, run by the same executors, in the same memory.
The results go into the pieces that encode; they are not recorded, so that a run that resumes finds
those of its unfinished files again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.task import Receipt, run_task
from anamnesis.pipeline.window_parts import widened
from anamnesis.pipeline.windows import inputs_of
from anamnesis.pipeline.work import Task, WriteTask

Found = dict[str, float]


@dataclass(frozen=True, slots=True)
class StatisticsTask(Task):
    """One whole tensor to be looked at; nothing is written."""

    pieces: tuple[EncodedPiece, ...]


@dataclass(frozen=True, slots=True)
class StatisticsReceipt(Receipt):
    """A receipt with what was found of a tensor, by the names that encoders know."""

    tensor: str
    found: Mapping[str, float]


@run_task.register
def run_statistics_task(
    task: StatisticsTask, cancelled: Callable[[], bool] | None = None
) -> StatisticsReceipt:
    """Look at a tensor. Raises the package's errors and OSError; Cancelled when asked to stop."""
    begin = time.perf_counter()
    (piece,) = task.pieces
    collector = _Collector(piece)
    with inputs_of(task, cancelled) as inputs, inputs.opened(piece.step) as windows:
        for window in windows.over(piece.start, piece.stop):
            collector.add(window.values)
    seconds = time.perf_counter() - begin
    name, found = piece.step.tensor.name, collector.found()
    return StatisticsReceipt(
        task.key, inputs.read_bytes, 0, seconds, tuple(inputs.spans), name, found
    )


class _Collector:
    """Takes a tensor's values window by window, in order."""

    def __init__(self, piece: EncodedPiece) -> None:
        from anamnesis.kernels._cascade import Cascade

        self._dtype, self._wanted = piece.step.dtype, piece.encoded.form.statistics
        self._least, self._most = np.float32(np.inf), np.float32(-np.inf)
        self._block = int(piece.encoded.settings.get("block", 1))
        self._blocks = -(-piece.step.tensor.elems // self._block)
        self._sum = Cascade(self._blocks)

    def add(self, values: Any) -> None:
        """The next window."""
        from anamnesis.kernels.encode_bnb import block_maxima

        wide = widened(values, self._dtype)
        with np.errstate(all="ignore"):
            if "extent" in self._wanted:
                self._least = np.minimum(self._least, wide.min())
                self._most = np.maximum(self._most, wide.max())
            if "absmax_mean" in self._wanted:
                self._sum.add(block_maxima(wide, self._block))

    def found(self) -> Found:
        """What the form asked for."""
        found: Found = {}
        with np.errstate(all="ignore"):
            if "extent" in self._wanted:
                found |= {"least": float(self._least), "most": float(self._most)}
            if "absmax_mean" in self._wanted:
                found["absmax_mean"] = float(self._sum.total() / np.float32(self._blocks))
        return found


def statistics_tasks(tasks: Iterable[Task]) -> list[StatisticsTask]:
    """A task for each tensor of `tasks` whose form asks for statistics."""
    found: dict[str, EncodedPiece] = {}
    ahead = memory = 0
    for task in tasks:
        ahead, memory = max(ahead, task.ahead_bytes), max(memory, task.memory_bytes)
        for piece in task.pieces:
            if isinstance(piece, EncodedPiece) and piece.encoded.form.statistics:
                whole = replace(piece, start=0, stop=piece.step.tensor.units)
                found.setdefault(piece.step.tensor.name, whole)
    return [
        StatisticsTask(f"statistics-{number:06d}", (piece,), 0, memory, ahead_bytes=ahead)
        for number, piece in enumerate(found.values())
    ]


def with_statistics(tasks: Sequence[WriteTask], receipts: Iterable[Receipt]) -> list[WriteTask]:
    """The same tasks with what was found of their tensors."""
    found = {r.tensor: r.found for r in receipts if isinstance(r, StatisticsReceipt)}

    def filled(piece: Any) -> Any:
        name = piece.step.tensor.name
        if not isinstance(piece, EncodedPiece) or name not in found:
            return piece
        return replace(piece, encoded=replace(piece.encoded, statistics=found[name]))

    return [replace(task, pieces=tuple(map(filled, task.pieces))) for task in tasks]
