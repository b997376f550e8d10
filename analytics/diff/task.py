"""The function that workers run for a diff: decode both sides, reduce them window by window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from anamnesis.kernels.diff import Comparison, Sums
from anamnesis.pipeline.plan import Piece, Step, Task
from anamnesis.pipeline.task import Receipt, run_task
from anamnesis.pipeline.windows import Cancelled, Windows
from anamnesis.readers.batch import OpenFile
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.files import Files
from anamnesis.readers.raw import SpanCrc


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair; rows in GGUF's order are put back in heads of `head_rows` rows."""

    step: Step
    head_rows: int = 0


@dataclass(frozen=True, slots=True)
class DiffPiece(Piece):
    """A range of a pair's *elements*; `exact` for integers, which are not cast to float32."""

    pair: int
    a: Side
    b: Side
    exact: bool = False


@dataclass(frozen=True, slots=True)
class DiffTask(Task):
    """What one worker does at a time. `out_bytes` are the stored bytes that it reads."""

    pieces: tuple[DiffPiece, ...]


@dataclass(frozen=True, slots=True)
class DiffReceipt(Receipt):
    """What a task found: `(pair, first element, sums)` a piece."""

    found: tuple[tuple[int, int, Sums], ...] = ()


@run_task.register
def run_diff_task(task: DiffTask, cancelled: Callable[[], bool] | None = None) -> DiffReceipt:
    """Do a task. Raises the package's errors and OSError; Cancelled when asked to stop."""
    begin = time.perf_counter()
    files = Files(task.origin)
    spans: list[SpanCrc] = []
    found = []
    try:
        for piece in task.pieces:
            compare = _compare_exact if piece.exact else _compare
            sums = compare(piece, files, spans, cancelled or (lambda: False))
            found.append((piece.pair, piece.start, sums))
        files.check_unchanged()
    finally:
        files.close()
    seconds = time.perf_counter() - begin
    read_bytes = task.out_bytes
    return DiffReceipt(task.key, 0, read_bytes, 0, seconds, (), tuple(spans), found=tuple(found))


def _compare(
    piece: DiffPiece, files: OpenFile, spans: list[SpanCrc], cancelled: Callable[[], bool]
) -> Sums:
    comparison = Comparison()
    for a, b in _side_by_side(piece, files, spans, cancelled):
        comparison.add(a, b)
    return comparison.result()


def _compare_exact(
    piece: DiffPiece, files: OpenFile, spans: list[SpanCrc], cancelled: Callable[[], bool]
) -> Sums:
    """Integers and booleans: equal is equal, and errors are those of their float64."""
    total = Sums()
    for a, b in _side_by_side(piece, files, spans, cancelled):
        x, y = a.astype(np.float64), b.astype(np.float64)
        distance = np.abs(x - y)
        total += Sums(
            elems=len(a),
            finite=len(a),
            equal=int(np.count_nonzero(a == b)),
            max_abs=float(distance.max(initial=0)),
            sum_abs=float(distance.sum()),
            noise=float((distance * distance).sum()),
            signal=float((x * x).sum()),
            other=float((y * y).sum()),
            dot=float((x * y).sum()),
        )
    return total


def _side_by_side(
    piece: DiffPiece, files: OpenFile, spans: list[SpanCrc], cancelled: Callable[[], bool]
) -> Iterator[tuple[Any, Any]]:
    """The values of both sides in runs of equal length: where either side's window ends."""
    sides = [_values(side, piece, files, spans) for side in (piece.a, piece.b)]
    a = b = np.empty(0, np.float32)
    done = piece.start
    while done < piece.stop:
        if cancelled():
            raise Cancelled
        a = a if len(a) else next(sides[0])
        b = b if len(b) else next(sides[1])
        elems = min(len(a), len(b))
        yield a[:elems], b[:elems]
        a, b = a[elems:], b[elems:]
        done += elems
    for side in sides:
        for _ in side:  # to its end, where it reports what it read
            raise AssertionError("a side went on after its piece")


def _values(side: Side, piece: DiffPiece, files: OpenFile, spans: list[SpanCrc]) -> Iterator[Any]:
    """One side's numbers, window by window, in memory that the next window reuses."""
    step = side.step
    tensor = step.tensor
    windows = Windows(step, files)
    dtype = np.dtype("?" if step.dtype == "BOOL" else DTYPES[step.dtype].numpy)
    order = _rows_put_back(side)
    first, last = piece.start // tensor.unit_elems, -(-piece.stop // tensor.unit_elems)
    for _, _, values in windows.over(first, last):
        yield order(values.view(dtype))
    spans += windows.spans()


def _rows_put_back(side: Side) -> Callable[[Any], Any]:
    """From GGUF's order of a head's rows, (pair, half), to the order (half, pair)."""
    if not side.head_rows:
        return lambda values: values
    tensor = side.step.tensor
    columns = tensor.elems // tensor.shape[0]
    scratch = np.empty(side.step.window_units * tensor.unit_elems, np.float32)

    def put_back(values: Any) -> Any:
        heads = values.reshape(-1, side.head_rows // 2, 2, columns)
        out = scratch[: len(values)]
        out.reshape(-1, 2, side.head_rows // 2, columns)[:] = heads.swapaxes(1, 2)
        return out

    return put_back
