"""Which parser a file wants: by its first bytes, then by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.base import Container
from anamnesis.readers.impostors import HEAD_BYTES, by_name, recognise
from anamnesis.readers.source import SourceFile, base_name, is_url, open_source
from anamnesis.readers.table import READERS, Reader
from anamnesis.readers.zip_kinds import among

Open = Callable[[str, Limits], Container]


def readable() -> str:
    """What can be opened, for messages."""
    return ", ".join(f"{name} ({'/'.join(row.extensions)})" for name, row in READERS.items())


def open_detected(path: str, limits: Limits) -> Container:
    """Open the file at `path` by the row that it wants; what that refuses is told with its page.

    Raises what `row_of` and the row's function raise.
    """
    row = row_of(path, limits)
    try:
        return _load(row)(path, limits)
    except UnsupportedError as error:
        if row.page:
            error.args = (f"{error} (docs/formats/{row.page}.md)",)
        raise


def detect(path: str, limits: Limits) -> Open:
    """The function that opens the file at `path`; raises what `row_of` raises."""
    return _load(row_of(path, limits))


def row_of(path: str, limits: Limits) -> Reader:
    """The row of the file at `path`, after a look at its first bytes.

    Raises FormatError for what is no model (empty, a folder, a Git-LFS pointer, an error page, a
    name that contradicts the content), UnsupportedError for other containers, OSError from the
    file system.
    """
    if not is_url(path) and os.path.isdir(path):
        raise FormatError(f"{path}: is a directory, not a file")
    with open_source(path, first_bytes=HEAD_BYTES) as file:
        if file.size == 0:
            raise FormatError(f"{path}: the file is empty")
        head = file.read(0, min(file.size, HEAD_BYTES))
        return _choose(file, head, limits)


def _choose(file: SourceFile, head: bytes, limits: Limits) -> Reader:
    path = file.path
    extension = os.path.splitext(base_name(path))[1].lower()
    named = [row for row in READERS.values() if extension in row.extensions]
    shown = [row for row in READERS.values() if head.startswith(row.magic, row.magic_at)]
    agreed = [row for row in shown if row in named and not row.holds]
    archives = [row for row in shown if row.holds]
    if archives and not agreed:
        judges = [row for row in archives if row in named and row.judges]
        shown = judges or [among(file, archives, readable(), limits)]
        agreed = [row for row in shown if row in named]
    if agreed:
        return agreed[0]
    for row in shown:
        if row.decisive and named:
            raise FormatError(
                f"{path}: is named {extension}, but starts with {row.magic!r} as files named "
                f"{'/'.join(row.extensions)} do; rename it if that is what it is"
            )
        if row.decisive or not (named or by_name(path)):
            return row
    for row in named:
        if row.judges or (row.empty and head.startswith(row.empty)):
            return row
    other = recognise(path, head, readable())
    if other:
        raise other
    if named:
        return named[0]
    if path.endswith(".json"):
        raise FormatError(f"{path}: is no weights; name the folder that it lies in, or an index")
    raise FormatError(
        f"{path}: neither its first bytes nor its name tell a known container; readable are "
        f"{readable()}"
    )


def _load(row: Reader) -> Open:
    module, _, name = row.target.partition(":")
    function: Open = getattr(import_module(f"anamnesis.readers.{module}"), name)
    return function
