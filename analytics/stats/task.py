"""What workers do for statistics: count the values of a piece, leaf by leaf, and keep nothing else.

A *leaf* is a fixed number of bytes of a tensor's values (`plan.py`), whatever stores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from anamnesis.analytics.stats.scales import Range, ScaleRange
from anamnesis.analytics.stats.values import Partial, reducer
from anamnesis.pipeline.plan import Piece
from anamnesis.pipeline.windows import Inputs
from anamnesis.readers.dtypes import DTYPES
from anamnesis.record import record

# Counters and what numpy makes of them, or of a window of integers: 9 MiB; and scales as float32.
REDUCER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Leaf:
    """What was found of leaf `number` of a tensor; `xxh3` is the xxh3-128 of its value bytes."""

    tensor: str
    number: int
    xxh3: bytes
    partial: Partial
    scales: Range | None


@record(frozen=True, slots=True)
class LeafPiece(Piece):
    """Elements `[first, last)`, whole leaves of `leaf_elems`; the units may hold a few more."""

    first: int
    last: int
    leaf_elems: int

    @property
    def value_bytes(self) -> int:
        return (self.last - self.first) * self.step.itemsize

    @property
    def memory_bytes(self) -> int:
        return self.step.memory_bytes + REDUCER_BYTES

    def reduce(self, inputs: Inputs) -> tuple[Leaf, ...]:
        """The leaves of the piece. Raises the package's errors and OSError."""
        tensor, whole = self.step.tensor, self.leaf_elems
        kind = DTYPES[self.step.dtype].numpy
        counts, digest = reducer(self.step.dtype), xxhash.xxh3_128()
        leaves: list[Leaf] = []
        at = self.first
        with inputs.opened(self.step) as windows:
            scales = ScaleRange(tensor, windows.reader)
            for window, views, found in windows.over(self.start, self.stop):
                scales.add(views, window)
                values = found.view(kind)[at - window.start * tensor.unit_elems :]
                values = values[: self.last - at]
                while len(values):
                    some = values[: whole - at % whole]
                    digest.update(some)
                    counts.add(some)
                    values, at = values[len(some) :], at + len(some)
                    if at % whole == 0 or at == self.last:
                        number = (at - 1) // whole
                        partial = counts.take()
                        leaves.append(
                            Leaf(tensor.name, number, digest.digest(), partial, scales.found)
                        )
                        digest.reset()
        return tuple(leaves)
