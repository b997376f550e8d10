"""What workers do for a diff: decode both sides of a piece, reduce them window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from typing import Any

import numpy as np

from anamnesis.kernels.diff import Comparison, Sums
from anamnesis.pipeline.plan import Step
from anamnesis.pipeline.windows import Inputs, batches
from anamnesis.pipeline.work import Read
from anamnesis.readers.base import Tensor
from anamnesis.readers.dtypes import DTYPES


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair; rows in GGUF's order are put back in heads of `head_rows` rows."""

    step: Step
    head_rows: int = 0


@dataclass(frozen=True, slots=True)
class DiffPiece:
    """Elements `[first, last)` of a pair; `exact` for integers, which are not cast to float32."""

    pair: int
    first: int
    last: int
    a: Side
    b: Side
    exact: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.a.step.tensor, self.b.step.tensor

    @property
    def value_bytes(self) -> int:
        """Of one side, as float32."""
        return 4 * (self.last - self.first)

    @property
    def work_bytes(self) -> int:
        """Stored bytes of both sides, in proportion: for progress, not for reading."""
        elems = self.last - self.first
        return sum(tensor.stored_bytes * elems // tensor.elems for tensor in self.tensors)

    @property
    def memory_bytes(self) -> int:
        return self.a.step.memory_bytes + self.b.step.memory_bytes

    def reads(self) -> Iterator[Read]:
        """Batches of both sides, in the order of the elements that they begin at."""
        yield from (read for _, read in merge(*map(self._batches, self.sides), key=itemgetter(0)))

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b

    def units(self, side: Side) -> tuple[int, int]:
        """The units of a side."""
        unit_elems = side.step.tensor.unit_elems
        return self.first // unit_elems, -(-self.last // unit_elems)

    def _batches(self, side: Side) -> Iterator[tuple[int, Read]]:
        step = side.step
        for batch in batches(step, *self.units(side)):
            yield batch.start * step.tensor.unit_elems, Read(step, batch.start, batch.stop)

    def reduce(self, inputs: Inputs) -> tuple[int, Sums]:
        """The number of the pair, and the sums of the piece."""
        compare = _compare_exact if self.exact else _compare
        return self.pair, compare(_side_by_side(self, inputs))


def _compare(values: Iterator[tuple[Any, Any]]) -> Sums:
    comparison = Comparison()
    for a, b in values:
        comparison.add(a, b)
    return comparison.result()


def _compare_exact(values: Iterator[tuple[Any, Any]]) -> Sums:
    """Integers and booleans: equal is equal, and errors are those of their float64."""
    total = Sums()
    for a, b in values:
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


def _side_by_side(piece: DiffPiece, inputs: Inputs) -> Iterator[tuple[Any, Any]]:
    """The values of both sides in runs of equal length: where either side's window ends."""
    sides = [_values(side, piece, inputs) for side in piece.sides]
    a = b = np.empty(0, np.float32)
    done = piece.first
    while done < piece.last:
        a = a if len(a) else next(sides[0])
        b = b if len(b) else next(sides[1])
        elems = min(len(a), len(b))
        yield a[:elems], b[:elems]
        a, b = a[elems:], b[elems:]
        done += elems
    for side in sides:
        for _ in side:  # to its end, where its reading is counted
            raise AssertionError("a side went on after its piece")


def _values(side: Side, piece: DiffPiece, inputs: Inputs) -> Iterator[Any]:
    """One side's numbers, window by window, in memory that the next window reuses."""
    step = side.step
    dtype = np.dtype("?" if step.dtype == "BOOL" else DTYPES[step.dtype].numpy)
    order = _row_order(side)
    with inputs.opened(step) as windows:
        for _, _, values in windows.over(*piece.units(side)):
            yield order(values.view(dtype))


def _row_order(side: Side) -> Callable[[Any], Any]:
    """From GGUF's order of a head's rows, (pair, half), to the order (half, pair)."""
    if not side.head_rows:
        return lambda values: values
    tensor = side.step.tensor
    columns = tensor.elems // tensor.shape[0]
    scratch = np.empty(side.step.window_units * tensor.unit_elems, np.float32)

    def restored(values: Any) -> Any:
        heads = values.reshape(-1, side.head_rows // 2, 2, columns)
        out = scratch[: len(values)]
        out.reshape(-1, 2, side.head_rows // 2, columns)[:] = heads.swapaxes(1, 2)
        return out

    return restored
