"""The input files of one piece of work: opened on first use, and checked against their identity."""

from __future__ import annotations

from anamnesis.readers.base import FileId
from anamnesis.readers.source import SourceFile, open_source


class Files:
    """Input files of one task, opened on first use and checked when the task ends."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[FileId, SourceFile]] = {}

    def __call__(self, wanted: FileId) -> SourceFile:
        found = self._open.get(wanted.path)
        if found is None:
            file = open_source(wanted.path)
            self._open[wanted.path] = (wanted, file)
            file.check_unchanged(wanted)
            return file
        return found[1]

    def check_unchanged(self) -> None:
        """Raise IntegrityError when an input is not what it was at planning time."""
        for wanted, file in self._open.values():
            file.check_unchanged(wanted)

    def close(self) -> None:
        """Close every file."""
        for _, file in self._open.values():
            file.close()
        self._open = {}
