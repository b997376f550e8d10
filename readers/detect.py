"""Which parser a file wants: by its first bytes, then by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import READERS, Reader
from anamnesis.readers.base import Container
from anamnesis.readers.impostors import HEAD_BYTES, recognise
from anamnesis.readers.source import LocalFile

Open = Callable[[str, Limits], Container]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def readable() -> str:
    """What can be opened, for messages."""
    return ", ".join(f"{name} ({'/'.join(row.extensions)})" for name, row in READERS.items())


def detect(path: str) -> Open:
    """The function that opens the file at `path`, after a look at its first bytes.

    Raises FormatError for what is no model (empty, a folder, a Git-LFS pointer, an error page, a
    name that contradicts the content), UnsupportedError for other containers, URLs and
    `ollama:` names, OSError from the file system.
    """
    if not os.path.lexists(path):
        if _URL.match(path) or path.startswith("ollama:"):
            raise UnsupportedError(
                f"{path}: only local files are read; download it first. Readable are {readable()}"
            )
    elif os.path.isdir(path):
        raise FormatError(f"{path}: is a directory, not a file")
    with LocalFile(path) as file:
        if file.size == 0:
            raise FormatError(f"{path}: the file is empty")
        head = file.read(0, min(file.size, HEAD_BYTES))
    return _load(_choose(path, head))


def _choose(path: str, head: bytes) -> Reader:
    extension = os.path.splitext(path)[1].lower()
    # Several containers may share a magic number (ZIP); then the name decides.
    named = [row for row in READERS.values() if extension in row.extensions]
    shown = [row for row in READERS.values() if head.startswith(row.magic, row.magic_at)]
    agreed = [row for row in shown if row in named]
    if agreed:
        return agreed[0]
    for row in shown:
        if row.decisive and named:
            raise FormatError(
                f"{path}: is named {extension}, but starts with {row.magic!r} as files named "
                f"{'/'.join(row.extensions)} do; rename it if that is what it is"
            )
        if row.decisive or not named:
            return row
    other = recognise(path, head, readable())
    if other:
        raise other
    if named:
        return named[0]
    raise FormatError(
        f"{path}: neither its first bytes nor its name tell a known container; readable are "
        f"{readable()}"
    )


def _load(row: Reader) -> Open:
    module, _, name = row.target.partition(":")
    function: Open = getattr(import_module(f"anamnesis.readers.{module}"), name)
    return function
