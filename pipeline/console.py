"""Standard output as the reports print to it: a terminal of some width, or a pipe without any."""

from __future__ import annotations

import os

from rich.console import Console
from rich.table import Table

_PIPED = 1 << 16  # characters across: what reads a pipe wants names whole


def open_console() -> Console:
    """For tables and text of files; plain where `NO_COLOR` is set (https://no-color.org).

    Bold is left out then too, which rich by itself keeps: whoever sets it wants no escapes.
    """
    plain = bool(os.environ.get("NO_COLOR"))
    console = Console(highlight=False, soft_wrap=True, color_system=None if plain else "auto")
    if not console.is_terminal:
        console.width = _PIPED
    return console


def print_table(console: Console, table: Table) -> None:
    """A table of rich's on a console, without the blanks that pad its last column."""
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=console.file)


__all__ = ["open_console", "print_table"]
