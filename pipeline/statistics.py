"""The first pass of an encoding run: what has to be known of a whole tensor before its windows.

It is planned like anything else: one task a tensor, run by the same executors, in the same memory.
The results go into the pieces that encode; they are not recorded, so that a run that resumes finds
those of its unfinished files again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.shared_scales import joined, shared
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
    """A receipt with what was found of a tensor, by the names that encoders know.

    `group` is what the tensor shares its scale with, if with any.
    """

    tensor: str
    group: str
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
        task.key, inputs.read_bytes, 0, seconds, tuple(inputs.spans), name, _group(piece), found
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


def statistics_tasks(tasks: Iterable[Task], every: Iterable[Task] = ()) -> list[StatisticsTask]:
    """A task for each tensor of `tasks` whose form asks for statistics.

    Of `every` task of the job, those are looked at as well that share a scale with one of them.
    """
    found: dict[str, EncodedPiece] = {}
    ahead = memory = 0
    for task in tasks:
        ahead, memory = max(ahead, task.ahead_bytes), max(memory, task.memory_bytes)
        for piece in _asking(task):
            found.setdefault(piece.step.tensor.name, piece)
    groups = set(map(_group, found.values())) - {""}
    for task in every if groups else ():
        for piece in _asking(task):
            if _group(piece) in groups and piece.step.tensor.name not in found:
                found[piece.step.tensor.name], memory = piece, max(memory, task.memory_bytes)
    return [
        StatisticsTask(f"statistics-{number:06d}", (piece,), 0, memory, ahead_bytes=ahead)
        for number, piece in enumerate(found.values())
    ]


def _asking(task: Task) -> Iterator[EncodedPiece]:
    """The tensors of a task whose forms ask for statistics, whole."""
    for piece in task.pieces:
        if isinstance(piece, EncodedPiece) and piece.encoded.form.statistics:
            yield replace(piece, start=0, stop=piece.step.tensor.units)


def _group(piece: EncodedPiece) -> str:
    encoded = piece.encoded
    if not encoded.settings.get("shared"):
        return ""
    return joined(piece.step.tensor.name, encoded.name, encoded.settings)


def found_in(receipts: Iterable[Receipt]) -> dict[str, Mapping[str, float]]:
    """What was found of each tensor."""
    mine = (r for r in receipts if isinstance(r, StatisticsReceipt))
    return shared((r.tensor, r.group, r.found) for r in mine)


def with_statistics(tasks: Sequence[WriteTask], receipts: Iterable[Receipt]) -> list[WriteTask]:
    """The same tasks with what was found of their tensors."""
    found = found_in(receipts)

    def filled(piece: Any) -> Any:
        name = piece.step.tensor.name
        if not isinstance(piece, EncodedPiece) or name not in found:
            return piece
        return replace(piece, encoded=replace(piece.encoded, statistics=found[name]))

    return [replace(task, pieces=tuple(map(filled, task.pieces))) for task in tasks]
