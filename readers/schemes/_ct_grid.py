"""How compressed-tensors' scales and zero points lie over a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anamnesis.readers.base import Component, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._scale_grid import Block


@dataclass(frozen=True, slots=True)
class Grid:
    """`lines` of `groups` scales for each of `matrices` (0: one for all of them).

    A line is of `block_rows` rows, a scale of `size` columns; with `by_rows` there is a line a row.
    """

    shape: tuple[int, ...]  # of the stored scales
    matrices: int
    stacked: bool
    rows: int
    lines: int
    groups: int
    block_rows: int
    size: int
    by_rows: bool
    rest: bool = False  # the last scale of a row may cover fewer columns, as the config says

    @property
    def params(self) -> dict[str, int]:
        """What the kernels ask of it."""
        return {
            "group_size": self.size,
            "groups": self.groups,
            "lines": self.lines,
            "block_rows": self.block_rows,
            "rows": self.rows,
            "matrices": self.matrices,
        }

    def component(self, role: str, stored: Stored, unit: int) -> Component:
        """Numbers of this grid, for units of `unit` rows."""
        if not self.by_rows:
            return Component(role, stored)
        return Component(role, stored, Contiguous(unit * self.groups * DTYPES[stored.dtype].bits))

    def checked(self, stored: Stored, dtypes: tuple[str, ...]) -> Stored:
        """A tensor of the same shape as the scales; raises FormatError for others."""
        one = math.prod(self.shape) == 1 == math.prod(stored.shape)
        if stored.dtype not in dtypes or not (stored.shape == self.shape or one):
            raise misfit(stored, f"{', '.join(dtypes)} {list(self.shape)}")
        return stored


def grid_of(
    weight: Stored,
    sizes: tuple[int, int, int],
    shape: tuple[int, ...],
    scale: Stored,
    blocks: list[Block],
) -> Grid:
    """What one scale covers; `sizes` are matrices, rows and columns of the weight of `shape`.

    `blocks` are the config's: a grid of blocks is only read as one where it says their size.
    Raises FormatError for a scale that does not fit.
    """
    matrices, rows, inputs = sizes
    stacked = len(shape) == 3
    lead = shape[:-1]
    found = scale.shape

    def grid(lines: int, groups: int, block: int, size: int, by_rows: bool) -> Grid:
        return Grid(
            found, matrices, stacked, rows, lines, max(1, groups), max(1, block), max(1, size),
            by_rows,
        )  # fmt: skip

    if scale.dtype not in SCALE_BITS:
        raise misfit(scale, f"{', '.join(SCALE_BITS)}")
    if len(found) == len(shape) and found[:-1] == lead and found[-1] <= inputs and found[-1]:
        size, declared = _line_size(inputs, scale, blocks)
        return replace(grid(rows, found[-1], 1, size, True), rest=declared)
    if not math.prod(shape):
        return grid(rows, 1, 1, inputs, False)  # nothing is stored
    if math.prod(found) == 1:
        return grid(0, 1, rows, inputs, False)
    if stacked and found in ((matrices,), (matrices, 1), (matrices, 1, 1)):
        return grid(1, 1, rows, inputs, False)
    tried = [f"{[*lead, 'groups']}", "[1]", "[]"]
    for bm, bn in blocks:
        wanted = (*lead[:-1], -(-rows // bm), -(-inputs // bn))
        tried.append(f"{list(wanted)} for blocks of {bm}x{bn}")
        if found == wanted:
            return grid(wanted[-2], wanted[-1], min(bm, rows), min(bn, inputs), False)
    raise misfit(scale, f"{', '.join(tried)}, for {weight.name!r} of {list(shape)}")


def _line_size(inputs: int, scale: Stored, blocks: list[Block]) -> tuple[int, bool]:
    """How many inputs of a row have one scale, and whether the config says so: else equal parts.

    Blocks of one row have a grid that is ceil-sized, and the last of them is what is left: 160
    inputs in blocks of 128 are 128 and 32, where two groups would be of 80. Raises FormatError
    where the config has several such blocks.
    """
    groups = scale.shape[-1]
    equal = -(-inputs // groups)
    sizes = {min(bn, inputs) for bm, bn in blocks if bm == 1 and -(-inputs // bn) == groups}
    if len(sizes) > 1 and equal not in sizes:
        raise misfit(scale, f"{inputs:,} inputs in blocks of one of {sorted(sizes)}")
    return (next(iter(sizes)) if len(sizes) == 1 else equal), bool(sizes)
