"""Which modules compressed-tensors' `targets` and `ignore` speak of.

An entry is a module's name, the name of a class, or `re:` and a pattern that has to fit the
beginning of a name; what is run of these is in `_patterns`. Source: PyPI compressed-tensors 0.20
utils/match.py (`is_match`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from anamnesis.readers.schemes._patterns import LONGEST, compiled

_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*")
LINEAR = ("Linear", "LinearBase")


class UnknownTargetError(ValueError):
    """An entry that is of no kind that is known here."""


def names(entries: object) -> tuple[str, ...]:
    """The entries of a list, or of one text; raises UnknownTargetError for anything else."""
    found = [entries] if isinstance(entries, str) else entries
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UnknownTargetError(f"{entries!r:.80} is no list of names")
    return tuple(found)


def is_class(entry: str) -> bool:
    """Whether an entry is the name of a class."""
    return _CLASS.fullmatch(entry) is not None


def names_module(entries: Iterable[str], module: str) -> bool:
    """Whether a name or pattern among the entries is of a module; classes are not looked at.

    Raises UnknownTargetError for a pattern that is not run.
    """
    return any(_is_of(entry, module) for entry in entries)


def _is_of(entry: str, module: str) -> bool:
    if not entry.startswith("re:"):
        return entry == module
    pattern = compiled(entry[3:])
    if pattern is None or len(module) > LONGEST:
        raise UnknownTargetError(f"the pattern {entry!r:.80} is not run")
    return pattern.match(module) is not None
