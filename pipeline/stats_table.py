"""Statistics as a person reads them: as much as fits on a terminal, everything when piped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from anamnesis.pipeline.progress import format_bytes, printable

if TYPE_CHECKING:
    from anamnesis.pipeline.stats import Stats, TensorStats

_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "-~=+*%#@"
_BINS = 12
_NAME_CELLS = 28
_NEVER = 99
_ALARM = "bold red"
_GAP = "  "

Cell = Callable[["TensorStats"], str]


@dataclass(frozen=True, slots=True)
class _Column:
    """`rank` says which columns stay when there is little room: the lowest ones."""

    head: str
    rank: int
    cell: Cell
    full: Cell
    right: bool = True


def _number(name: str, digits: int) -> Cell:
    def cell(row: TensorStats) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value:.{digits}g}"

    return cell


def _count(name: str) -> Cell:
    return lambda row: str(getattr(row, name))


def _figure(name: str, rank: int) -> _Column:
    return _Column(name, rank, _number(name, 3), _number(name, 9))


def _shape(row: TensorStats) -> str:
    return "x".join(map(str, row.shape)) or "scalar"


def _zeros(row: TensorStats) -> str:
    """A share; never 0 % where there is one, nor 100 % where one is missing."""
    if row.zeros in (0, row.elements):
        return "all" if row.zeros else "0"
    return f"{min(99.9, max(0.1, 100 * row.zeros / row.elements)):.1f}%"


def _scales(digits: int) -> Cell:
    def cell(row: TensorStats) -> str:
        low, high = row.scale_min, row.scale_max
        if low is None or high is None:
            return ""
        return f"{low:.{digits}g}" if low == high else f"{low:.{digits}g}..{high:.{digits}g}"

    return cell


def _exponents(bars: str) -> Cell:
    """The highest bins as bars, those below them together in the first, and the highest's 2**e."""

    def cell(row: TensorStats) -> str:
        if not row.exponents:
            return ""
        top = row.exponents[-1][0]
        lowest = max(row.exponents[0][0], top - _BINS + 1)
        counts = [0] * (top - lowest + 1)
        for exponent, count in row.exponents:
            counts[max(0, exponent - lowest)] += count
        most = max(counts)
        drawn = "".join(bars[1 + (len(bars) - 2) * c // most] if c else bars[0] for c in counts)
        return f"{drawn} {top:>4}" if bars[0] == " " else f"{drawn}:{top}"

    return cell


def _columns(bars: str) -> list[_Column]:
    return [
        _Column("tensor", 0, lambda row: printable(row.tensor), _plain_name, right=False),
        _Column("shape", 3, _shape, _shape, right=False),
        _Column("scheme", 2, _scheme, lambda row: row.scheme, right=False),
        _Column("dtype", _NEVER, lambda row: "", lambda row: row.dtype, right=False),
        _figure("min", 8),
        _figure("max", 8),
        _figure("mean", 7),
        _figure("std", 4),
        _figure("absmax", 1),
        _Column("zeros", 5, _zeros, _count("zeros")),
        _Column("NaN", 1, _count("nans"), _count("nans")),
        _Column("Inf", 1, _count("infs"), _count("infs")),
        _Column("exponents", 6, _exponents(" " + bars), _exponents("." + bars)),
        _Column("scales", 9, _scales(2), _scales(6)),
        _Column("xxh3", 10, lambda row: row.xxh3[:8], lambda row: row.xxh3, right=False),
    ]


def _plain_name(row: TensorStats) -> str:
    """Without blanks: a line of a pipe is cut at them."""
    return printable(row.tensor).replace(" ", "\\x20")


def _scheme(row: TensorStats) -> str:
    return f"{row.scheme} {row.dtype}" if row.scheme == "passthrough" else row.scheme


def print_stats(found: Stats) -> None:
    """To standard output: what fits on a terminal, or all columns for a pipe."""
    encoding = sys.stdout.encoding or "ascii"
    bars = _BARS if encoding.lower().replace("-", "").startswith("utf") else _ASCII_BARS
    console = Console(highlight=False, soft_wrap=True)
    width = console.width if console.is_terminal else None
    for line in _lines(found, _columns(bars), width):
        text = line.plain.encode(encoding, "backslashreplace").decode(encoding)
        line.plain = text
        console.print(line if console.is_terminal else Text(text))


def as_text(found: Stats, *, width: int | None, most: int) -> str:
    """The table without colours, of the first `most` tensors."""
    return "\n".join(line.plain for line in _lines(found, _columns(_BARS), width, most))


def _lines(
    found: Stats, columns: list[_Column], width: int | None, most: int | None = None
) -> list[Text]:
    rows = found.rows[:most]
    if width is not None:
        columns = _with_something(columns, rows)
    if width is None:
        cells = [[c.full(row) or "-" for c in columns] for row in rows]
    else:
        cells = [[c.cell(row) for c in columns] for row in rows]
        cells = [[_tail(line[0], max(_NAME_CELLS, width // 3)), *line[1:]] for line in cells]
        kept = _fitting(columns, cells, width)
        columns = [columns[i] for i in kept]
        cells = [[line[i] for i in kept] for line in cells]
    widths = [
        max([cell_len(column.head), *(cell_len(line[i]) for line in cells)])
        for i, column in enumerate(columns)
    ]
    lines = [Text(printable(_title(found)), "bold")]
    heads = [column.head for column in columns]
    lines.append(_line(heads, columns, widths, dict.fromkeys(heads, "bold")))
    for row, line in zip(rows, cells, strict=True):
        styles = {"NaN": _ALARM * bool(row.nans), "Inf": _ALARM * bool(row.infs)}
        lines.append(_line(line, columns, widths, styles))
    if len(rows) < len(found.rows):
        lines.append(Text(f"and {len(found.rows) - len(rows)} more"))
    if not any(row.nans or row.infs for row in found.rows):
        lines.append(Text("no NaN, no Inf"))
    return lines


def _title(found: Stats) -> str:
    elements = sum(row.elements for row in found.rows)
    text = f"{found.path}: {found.container}, {len(found.rows)} tensors, {elements:,} values"
    if found.seconds < 1:
        return text
    rate = format_bytes(found.value_bytes / found.seconds)
    return f"{text} in {found.seconds:.2f} s ({rate}/s)"


def _with_something(columns: Sequence[_Column], rows: Sequence[TensorStats]) -> list[_Column]:
    """Without the columns of counts that are all zero, and of values that nobody has."""
    kept: list[_Column] = []
    for column in columns:
        cells = {column.cell(row) for row in rows}
        empty = {"0"} if column.head in ("NaN", "Inf") else {""}
        if cells - empty or not column.rank:
            kept.append(column)
    return kept


def _fitting(columns: Sequence[_Column], cells: list[list[str]], width: int) -> list[int]:
    """The columns that a line has room for, in their order; the least important go."""
    room = width
    kept: list[int] = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].rank):
        need = max([cell_len(columns[i].head), *(cell_len(line[i]) for line in cells)])
        need += len(_GAP) * bool(kept)
        if kept and need > room:
            continue
        room -= need
        kept.append(i)
    return sorted(kept)


def _tail(name: str, width: int) -> str:
    """The end of a name that is too long: its start is what the others have as well."""
    if cell_len(name) <= width:
        return name
    while cell_len(name) > width - 1:
        name = name[1:]
    return f"…{name}"


def _line(
    cells: Sequence[str],
    columns: Sequence[_Column],
    widths: Sequence[int],
    styles: Mapping[str, str],
) -> Text:
    line = Text(no_wrap=True)
    for i, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        blank = " " * (width - cell_len(cell))
        padded = blank + cell if column.right else cell + blank
        line.append((_GAP if i else "") + padded, styles.get(column.head, ""))
    line.rstrip()
    return line
