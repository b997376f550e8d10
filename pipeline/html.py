"""Tables for notebooks. Texts come from files: what does not print is escaped, HTML is quoted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice

from anamnesis.errors import printable

_MOST_ROWS = 20


def html_table(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    total: int,
    notes: Sequence[str] = (),
) -> str:
    """A heading, the first of `total` rows, how many more there are, and remarks."""
    names = "".join(f"<th>{_cell(name)}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>"
        for row in islice(rows, _MOST_ROWS)
    )
    more = f"<p>and {total - _MOST_ROWS:,} more</p>" if total > _MOST_ROWS else ""
    below = "".join(f"<p>note: {_cell(note)}</p>" for note in notes)
    return (
        f"<p><b>{_cell(title)}</b></p><table><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}{below}"
    )


def _cell(value: object) -> str:
    return "" if value is None else escape(printable(value))


__all__ = ["html_table"]
