"""What a picture of a comparison shows: tensors gathered by layer and module, and their order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anamnesis.analytics.diff.record import Findings, Row, add_up, decibels
from anamnesis.kernels.diff import metrics

MAX_COLUMNS = 200
MAX_ROWS = 48
_MANY = 20  # cells, of which a few may be off the scale
_REACH = 2  # dB beyond the 2 % at either end
_LEAST = 6  # dB that a scale spans at least
_ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv", "q_", "k_", "v_", "kv", "o_proj", "out", "dense")
_MLP = ("gate", "up_proj", "gate_up", "up", "fc1", "down_proj", "down", "fc2")


@dataclass(frozen=True, slots=True)
class Cell:
    """Compared tensors that are shown as one; `SQNR` of them is that of all their elements."""

    rows: tuple[Row, ...]
    sqnr_db: float

    @property
    def identical(self) -> bool:
        return all(row.identical for row in self.rows)

    @property
    def broken(self) -> int:
        return sum(row.broken for row in self.rows)

    @property
    def rank(self) -> tuple[bool, float]:
        """Worst first: what is broken, then by rising SQNR."""
        return not self.broken, math.inf if math.isnan(self.sqnr_db) else self.sqnr_db

    @property
    def coloured(self) -> bool:
        """Whether its SQNR is a number that a colour stands for."""
        return not self.identical and not self.broken and not math.isnan(self.sqnr_db)

    def about(self, where: str) -> str:
        """Some lines for whoever points at it."""
        first = self.rows[0]
        sums = add_up(self.rows)
        found = metrics(sums)
        lines = [where, f"SQNR {decibels(self.sqnr_db)}"]
        if self.identical:
            lines[1] = "all BF16 bits are equal"
        else:
            lines.append(f"relative error {found['relative_error']:.3g}")
            lines.append(f"max error {found['max_abs_error']:.3g}")
            lines.append(f"BF16 bits equal {100 * sums.equal / max(1, sums.elems):.2f} %")
        if self.broken:
            lines.append(f"{self.broken} numbers are NaN or infinite on one side only")
        if len(self.rows) > 1:
            worst = min(self.rows, key=lambda row: row.rank)
            best = max(self.rows, key=lambda row: row.rank)
            lines.append(
                f"{len(self.rows)} tensors, {decibels(worst.sqnr_db)} to {decibels(best.sqnr_db)}"
            )
            lines.append(f"worst: {worst.tensor}")
        else:
            lines.append(first.tensor)
            lines.append(f"{first.scheme_a} : {first.scheme_b}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Line:
    """One module type in all layers: a row of the picture."""

    group: str
    label: str
    cells: dict[int, Cell]  # by column
    total: Cell


@dataclass(frozen=True, slots=True)
class Grid:
    """`columns` are layers, or runs of layers `(first, last)` where there are very many."""

    columns: tuple[tuple[int, int], ...]
    lines: tuple[Line, ...]
    bottom: dict[int, Cell]  # whole layers, by column
    outside: tuple[tuple[str, Cell], ...]  # tensors outside of layers, by name
    left_out: int  # module types that are not shown


def gather(found: Findings) -> Grid:
    """Sort the compared tensors into a grid."""
    inside = [row for row in found.compared if row.layer is not None]
    layers = sorted({row.layer for row in inside if row.layer is not None})
    per_column = max(1, math.ceil(len(layers) / MAX_COLUMNS))
    column_of = {layer: at // per_column for at, layer in enumerate(layers)}
    runs = [layers[at : at + per_column] for at in range(0, len(layers), per_column)]
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in inside:
        by_kind[row.module].append(row)
    shown = sorted(by_kind, key=lambda kind: min(row.rank for row in by_kind[kind]))[:MAX_ROWS]
    lines = []
    for kind in sorted(shown, key=lambda kind: _order(kind, by_kind[kind])):
        rows = by_kind[kind]
        group, label = _heading(kind, rows)
        cells = _columns(rows, column_of)
        if group == "experts" and per_column == 1:
            count = max(len(found.rows) for found in cells.values())
            group += f", {count} a layer" if count > 1 else ""
        lines.append(Line(group, label, cells, cell(rows)))
    outside = [row for row in found.compared if row.layer is None]
    return Grid(
        tuple((run[0], run[-1]) for run in runs),
        tuple(lines),
        _columns(inside, column_of) if len(by_kind) > 1 else {},
        tuple((row.module, cell([row])) for row in outside),
        len(by_kind) - len(shown),
    )


def cell(rows: Iterable[Row]) -> Cell:
    """These tensors as one."""
    rows = tuple(rows)
    return Cell(rows, metrics(add_up(rows))["sqnr_db"])


class Scale(NamedTuple):
    """The SQNRs, in dB, that the ends of the colour scale stand for; beyond them are others."""

    low: float
    high: float
    clipped_low: bool = False
    clipped_high: bool = False

    def share(self, sqnr_db: float) -> float:
        """Where on the scale, 0 to 1; beyond them for what is off the scale."""
        return (sqnr_db - self.low) / (self.high - self.low)


def scale(grid: Grid) -> Scale:
    """A scale that most cells share: the few that are far off do not make the others alike."""
    cells = [c for line in grid.lines for c in line.cells.values()]
    inside = _figures(cells)
    values = sorted(inside + _figures(c for _, c in grid.outside))
    if not values:
        return Scale(0.0, 60.0)
    most = sorted(inside) if len(inside) >= _MANY else values
    low, high = values[0], values[-1]
    if len(values) >= _MANY:
        low = max(low, most[len(most) // 50] - _REACH)
        high = min(high, most[-1 - len(most) // 50] + _REACH)
    low, high = 2 * math.floor(max(-20, low) / 2), 2 * math.ceil(min(120, high) / 2)
    if high - low < _LEAST:  # a small difference is not shown as a large one
        low, high = (low + high) // 2 - _LEAST // 2, (low + high) // 2 + _LEAST // 2
    return Scale(low, high, values[0] < low, values[-1] > high)


def _figures(cells: Iterable[Cell]) -> list[float]:
    return [c.sqnr_db for c in cells if c.coloured and math.isfinite(c.sqnr_db)]


def _columns(rows: Sequence[Row], column_of: dict[int, int]) -> dict[int, Cell]:
    columns: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.layer is not None:
            columns[column_of[row.layer]].append(row)
    return {at: cell(found) for at, found in columns.items()}


def _heading(kind: str, rows: Sequence[Row]) -> tuple[str, str]:
    """The group that a module type belongs to, and its name in there."""
    tower, colon, module = kind.rpartition(": ")
    group = _group(module, rows)
    name = module
    for head in ("self_attn.", "attn.", "attention.", "mlp.experts.", "mlp."):
        if group in ("attention", "MLP", "experts") and name.startswith(head):
            name = name.removeprefix(head)
            break
    if module in ("mlp.gate", "mlp.router"):
        name = "router"
    return (f"{tower}: {group}" if colon else group), name


def _group(module: str, rows: Sequence[Row]) -> str:
    if all(len(row.shape) < 2 for row in rows):
        return "vectors"
    if "experts." in module:
        return "experts"
    if "attn" in module or "attention" in module:
        return "attention"
    if any(part in module for part in ("mlp", "ffn", "feed_forward")):
        return "MLP"
    return "other"


def _order(kind: str, rows: Sequence[Row]) -> tuple[str, int, int, str]:
    tower, _, module = kind.rpartition(": ")
    group = _group(module, rows)
    leaf = module.split(".")[-1]
    known = _ATTENTION if group == "attention" else _MLP
    place = next((at for at, part in enumerate(known) if leaf.startswith(part)), len(known))
    rank = ("attention", "MLP", "experts", "other", "vectors").index(group)
    return tower, rank, place, module
