"""Statistics as a person reads them: as much as fits on a terminal, everything when piped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from anamnesis.analytics.stats.record import Figures, TensorStats
from anamnesis.pipeline.console import open_console
from anamnesis.pipeline.html import html_table
from anamnesis.pipeline.progress import printable
from anamnesis.pipeline.units import speed

_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "-~=+*%#@"
_BINS = 12
_NAME_CELLS = 28
_WIDEN_CELLS = 4
_NAME_CHARS = 400  # of its end, to shorten; a file may bring names of 65,535
_PIPED_NAME_CELLS = 96  # to line up; a longer name is printed whole
_ALARM = "bold red"
_WORTH_BYTES = 64 << 20  # decoded; the speed of less is that of starting up
_GAP = "  "

Cell = Callable[["TensorStats"], str]


@dataclass(frozen=True, slots=True)
class _Column:
    """`short` is what a terminal shows and `full` what a pipe gets, one of them maybe nothing.

    `rank` says which columns stay when there is little room: the lowest ones.
    """

    head: str
    rank: int
    short: Cell | None
    full: Cell | None
    right: bool = True


def _number(name: str, digits: int) -> Cell:
    def cell(row: TensorStats) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value:.{digits}g}"

    return cell


def _count(name: str) -> Cell:
    return lambda row: str(getattr(row, name))


def _shape(row: TensorStats) -> str:
    return "x".join(map(str, row.shape)) or "scalar"


def _zeros(row: TensorStats) -> str:
    """A share; never 0 % where there is one, nor 100 % where one is missing."""
    if row.zeros in (0, row.elements):
        return "all" if row.zeros else "0"
    return f"{min(99.9, max(0.1, 100 * row.zeros / row.elements)):.1f}%"


def _range(first: str, last: str, digits: int) -> Cell:
    def cell(row: TensorStats) -> str:
        low, high = getattr(row, first), getattr(row, last)
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
        _Column("tensor", 0, lambda row: printable(row.tensor), _word, right=False),
        _Column("shape", 3, _shape, _shape, right=False),
        _Column("scheme", 2, _scheme, lambda row: row.scheme, right=False),
        _Column("dtype", 0, None, lambda row: row.dtype, right=False),
        _Column("range", 8, _range("min", "max", 3), None),
        _Column("min", 0, None, _number("min", 9)),
        _Column("max", 0, None, _number("max", 9)),
        _Column("mean", 7, _number("mean", 3), _number("mean", 9)),
        _Column("std", 4, _number("std", 3), _number("std", 9)),
        _Column("absmax", 1, _number("absmax", 3), _number("absmax", 9)),
        _Column("zeros", 5, _zeros, _count("zeros")),
        _Column("NaN", 1, _count("nans"), _count("nans")),
        _Column("Inf", 1, _count("infs"), _count("infs")),
        _Column("exponents", 6, _exponents(" " + bars), _exponents("." + bars)),
        _Column("scales", 9, _range("scale_min", "scale_max", 2), None),
        _Column("scale_min", 0, None, _number("scale_min", 9)),
        _Column("scale_max", 0, None, _number("scale_max", 9)),
        _Column("xxh3", 10, lambda row: row.xxh3[:8], lambda row: row.xxh3, right=False),
    ]


def _word(row: TensorStats) -> str:
    """Without blanks: a line of a pipe is cut at them."""
    return printable(row.tensor).replace(" ", "\\x20")


def _scheme(row: TensorStats) -> str:
    return row.dtype if row.scheme == "passthrough" else row.scheme


def print_stats(found: Figures) -> None:
    """To standard output: what fits on a terminal, or all columns for a pipe."""
    encoding = sys.stdout.encoding or "ascii"
    bars = _BARS if encoding.lower().replace("-", "").startswith("utf") else _ASCII_BARS
    console = open_console()
    width = console.width if console.is_terminal else None
    for line in _lines(found, _columns(bars), width):
        line.plain = line.plain.encode(encoding, "backslashreplace").decode(encoding)
        if console.is_terminal:
            console.print(line)
        else:
            sys.stdout.write(f"{line.plain}\n")


def as_text(found: Figures, *, width: int | None, most: int) -> str:
    """The table without colours, of the first `most` tensors."""
    return "\n".join(line.plain for line in _lines(found, _columns(_BARS), width, most))


def as_html(found: Figures) -> str:
    """The table for a notebook, with the columns that a wide terminal has."""
    columns = [(column.head, column.short) for column in _columns(_BARS) if column.short]
    rows = ([cell(row) for _, cell in columns] for row in found.rows)
    heads = [head for head, _ in columns]
    return html_table(_title(found), heads, rows, len(found.rows), found.notes)


def _lines(
    found: Figures, columns: list[_Column], width: int | None, most: int | None = None
) -> list[Text]:
    rows = found.rows[:most]
    columns, cells = _short(columns, rows, width) if width else _full(columns, rows)
    widths = [
        max([cell_len(column.head), *(cell_len(line[i]) for line in cells)])
        for i, column in enumerate(columns)
    ]
    widths[0] = min(widths[0], width or _PIPED_NAME_CELLS)
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


def _title(found: Figures) -> str:
    elements = sum(row.elements for row in found.rows)
    text = f"{found.path}: {found.container}, {len(found.rows)} tensors, {elements:,} values"
    if found.value_bytes < _WORTH_BYTES:
        return text
    rate = speed(found.value_bytes / max(found.seconds, 1e-9))
    return f"{text} in {found.seconds:.2f} s ({rate})"


def _full(
    columns: Sequence[_Column], rows: Sequence[TensorStats]
) -> tuple[list[_Column], list[list[str]]]:
    """Every column; none of its cells is empty."""
    some = [(column, column.full) for column in columns if column.full is not None]
    cells = [[cell(row) or "-" for _, cell in some] for row in rows]
    return [column for column, _ in some], cells


def _short(
    columns: Sequence[_Column], rows: Sequence[TensorStats], width: int
) -> tuple[list[_Column], list[list[str]]]:
    """The columns that have something to tell and for which a line has room."""
    some = []
    for column in columns:
        if column.short is not None:
            cells = [column.short(row) for row in rows]
            nothing = {"0"} if column.head in ("NaN", "Inf") else {""}
            if set(cells) - nothing or not column.rank:
                some.append((column, cells))
    names = some[0][1]
    names[:] = _distinct(names, max(_NAME_CELLS, width // 3), width // 2)
    kept = _fitting(some, width)
    lines = [[some[i][1][at] for i in kept] for at in range(len(rows))]
    return [some[i][0] for i in kept], lines


def _fitting(columns: Sequence[tuple[_Column, list[str]]], width: int) -> list[int]:
    """Numbers of the columns that fit, in their order; the least important go."""
    room = width
    kept: list[int] = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i][0].rank):
        column, cells = columns[i]
        need = max(map(cell_len, [column.head, *cells])) + len(_GAP) * bool(kept)
        if not kept or need <= room:
            room -= need
            kept.append(i)
    return sorted(kept)


def _distinct(names: Sequence[str], cells: int, most: int) -> list[str]:
    """The names in so many cells, or in as many of `most` as tell all of them apart."""
    apart = len(set(names))
    shown = [_shortened(name, cells) for name in names]
    while len(set(shown)) < apart and cells < most:
        cells = min(most, cells + _WIDEN_CELLS)
        shown = [_shortened(name, cells) for name in names]
    return shown


def _shortened(name: str, width: int) -> str:
    """A name in so many cells: what tells it from others, its numbers and its end, goes last."""
    parts = name[-_NAME_CHARS:].split(".")
    for i in (*range(len(parts) - 2), -1) if len(parts) > 2 else ():
        if cell_len(".".join(parts)) <= width:
            break
        if not parts[i].isdecimal():
            parts[i] = parts[i][:1]
    whole = len(name) <= _NAME_CHARS
    name = ".".join(parts)
    if whole and cell_len(name) <= width:
        return name
    name = name[-width:]
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
