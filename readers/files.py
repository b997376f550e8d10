"""The input files of one piece of work: opened on first use, and checked against their identity."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from anamnesis.readers.base import FileId
from anamnesis.readers.source import SourceFile, is_url, open_source

if TYPE_CHECKING:
    from anamnesis.readers.ahead import ReadAhead


class Files:
    """Input files of one task, opened on first use and checked when the task ends."""

    def __init__(self, origin: str = "", ahead: ReadAhead | None = None, key: str = "") -> None:
        """`origin` is the folder of the process that planned, when that is another.

        What is read from behind URLs was fetched `ahead` for `key`.

        Relative paths start there. Its device and inode numbers mean nothing here: every machine
        numbers what it mounts by itself. Size and time of change must be the same.
        """
        self._origin = origin
        self._ahead, self._key = ahead, key
        self._open: dict[str, tuple[FileId, SourceFile]] = {}

    def __call__(self, wanted: FileId) -> SourceFile:
        found = self._open.get(wanted.path)
        if found is not None:
            return found[1]
        if not self._origin or is_url(wanted.path):
            file, expected = open_source(wanted.path, expected=wanted), wanted
            if self._ahead is not None:
                file = self._ahead.wrap(file, self._key)
        else:
            file = open_source(os.path.join(self._origin, wanted.path))
            here = file.id
            expected = replace(wanted, path=here.path, device=here.device, inode=here.inode)
        self._open[wanted.path] = (expected, file)
        file.check_unchanged(expected)
        return file

    def check_unchanged(self) -> None:
        """Raise IntegrityError when an input is not what it was at planning time."""
        for wanted, file in self._open.values():
            file.check_unchanged(wanted)

    def close(self) -> None:
        """Close every file."""
        for _, file in self._open.values():
            file.close()
        self._open = {}
