"""What commands print: JSON that a terminal shows and does not obey, and streams that are there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from anamnesis.cli.failure import plain

# Outside of strings JSON has printable ASCII and line ends alone.
_PRINTABLE_ASCII = re.compile(r"[^\n -~]")


def print_json(document: Any) -> None:
    """Print a document as JSON (RFC 8259) of printable characters.

    Names come from files: control characters, C1 ones too (U+009B begins a command as ESC [ does),
    marks that turn the direction of text, and halves of surrogate pairs are escaped.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(_PRINTABLE_ASCII.sub(_shown, text))


def remark(notes: Sequence[str]) -> None:
    """Print remarks to standard error, a line each; of many of a kind the first."""
    from anamnesis.pipeline.remarks import collapsed

    for note in collapsed(notes):
        click.echo(f"note: {plain(note)}", err=True)


def open_missing() -> None:
    """Give the null device to standard streams that are closed, as by `2>&-` and in services.

    Else the next file that is opened gets their number, and what is written to them.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]
