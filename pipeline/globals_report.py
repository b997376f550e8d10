"""What the pickles of a file would import: the report of `amn inspect --globals`.

Nothing in the file can stop the report or runs for it. A global counts as allowed when
conversion takes it; one that is not is why `remember` refuses the file with a SecurityError. An
array of objects of NumPy is a pickle too, and refused whatever it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.detect import detect
from anamnesis.readers.find import find_files
from anamnesis.readers.npy import open_npy
from anamnesis.readers.npz import list_object, list_objects, open_npz
from anamnesis.readers.paths import expand
from anamnesis.readers.pickle_globals import Findings, GlobalName
from anamnesis.readers.pth import list_globals, open_pth


@dataclass(frozen=True, slots=True)
class GlobalsReport:
    """The globals of all files of a model; `problems` are what no valid checkpoint has."""

    path: str
    globals: tuple[GlobalName, ...]
    problems: tuple[str, ...]

    @property
    def refused(self) -> tuple[GlobalName, ...]:
        """Those that are not allowed."""
        return tuple(name for name in self.globals if not name.allowed)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `inspect --globals --json` prints."""
        return {
            "path": self.path,
            "allowed": not self.refused,
            "globals": [name._asdict() for name in self.globals],
            "problems": list(self.problems),
        }


def report_globals(path: str, limits: Limits) -> GlobalsReport:
    """Every global of every file that `path` means; containers without pickles have none.

    Raises OSError, LimitError, and FormatError or UnsupportedError for a file that is nothing to
    look into, such as an error page or an archive that cannot be read.
    """
    found = [_of_file(file, limits) for file in find_files(expand(path), limits).paths]
    return GlobalsReport(
        path,
        tuple(name for findings in found for name in findings.globals),
        tuple(problem for findings in found for problem in findings.problems),
    )


def _of_file(path: str, limits: Limits) -> Findings:
    try:
        chosen = detect(path, limits)
    except (FormatError, UnsupportedError):
        chosen = open_pth  # a pickle of another kind, TorchScript: looked into all the same
    if chosen is open_pth:
        return list_globals(path, limits)
    if chosen is open_npz:
        return list_objects(path, limits)
    return list_object(path, limits) if chosen is open_npy else Findings((), ())


def as_text(report: GlobalsReport) -> str:
    """The report as a person reads it, one global a line."""
    lines = [
        f"{'allowed' if name.allowed else 'REFUSED'}  {_printable(name.name)}"
        f"  ({_printable(name.pickle)})"
        for name in report.globals
    ]
    lines += [f"problem  {_printable(problem)}" for problem in report.problems]
    count = len(report.refused)
    verdict = f"{count} of them not allowed" if count else "all allowed"
    number = len(report.globals)
    names = f"{number} global{'s' * (number != 1)}, {verdict}" if number else "no globals"
    return "\n".join([*lines, f"{_printable(report.path)}: {names}"])


def _printable(text: str) -> str:
    """Text from a file, without what a terminal would obey."""
    return text if text.isprintable() else repr(text)
