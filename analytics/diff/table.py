"""A comparison as a person reads it in a terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table
from rich.text import Text

from anamnesis.analytics.diff.record import Findings, Row, decibels
from anamnesis.kernels.diff import Sums, metrics
from anamnesis.pipeline.console import open_console, print_table
from anamnesis.pipeline.progress import printable

_LISTED = 10  # tensors without figures, of each kind
_ROOMY = 116  # characters across


def print_diff(found: Findings, top: int) -> None:
    """The worst `top` tensors (0: all), and what was not compared, to standard output."""
    console = open_console()
    console.print(Text(printable(f"{found.a} : {found.b}"), style="bold"))
    console.print(f"{found.summary()}")
    rows = found.compared[: top or None]
    if rows:
        print_table(console, _table(rows, console.width))
    if len(rows) < len(found.compared):
        console.print(f"and {len(found.compared) - len(rows)} better ones (--top 0 prints all)")
    for status in ("not compared", "only in a", "only in b"):
        group = [row for row in found.others if row.status == status]
        for row in group[: None if top == 0 else _LISTED]:
            text = f"{status}: {row.tensor}" + (f": {row.why}" if row.why else "")
            console.print(Text(printable(text)))
        if top and len(group) > _LISTED:
            console.print(f"{status}: {len(group) - _LISTED} more")


def _table(rows: tuple[Row, ...], width: int) -> Table:
    """All columns where there is room, else those that say most."""
    heads = ["SQNR", "rel. error", "max error", "bits equal"]
    if width >= _ROOMY:
        heads[3:3] = ["mean error", "cosine"]
        heads.append("schemes")
    if any(row.broken for row in rows):
        heads.insert(0, "broken")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensor", overflow="fold")
    for head in heads:
        justify: Any = "left" if head == "schemes" else "right"
        table.add_column(head, justify=justify, no_wrap=True)
    for row in rows:
        cells = _cells(row)
        table.add_row(Text(printable(row.tensor)), *(cells[head] for head in heads))
    return table


def _cells(row: Row) -> dict[str, str]:
    sums = row.sums or Sums()
    found = metrics(sums)
    schemes = [row.scheme_a or "", row.scheme_b or ""]
    return {
        "SQNR": decibels(found["sqnr_db"]),
        "rel. error": _short(found["relative_error"]),
        "max error": _short(found["max_abs_error"]),
        "mean error": _short(found["mean_abs_error"]),
        "cosine": "" if math.isnan(found["cosine"]) else f"{found['cosine']:.6f}",
        "bits equal": _share(sums.equal, sums.elems),
        "broken": str(row.broken),
        "schemes": " : ".join(dict.fromkeys(schemes)),
    }


def _share(part: int, whole: int) -> str:
    """Never 100 % where one is missing, nor 0 % where one is there."""
    if part == whole:
        return "all"
    if part == 0:
        return "none"
    return f"{min(99.99, max(0.01, 100 * part / whole)):.2f} %"


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return "0" if value == 0 else f"{value:.3g}"
