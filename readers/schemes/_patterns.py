"""Regular expressions that a file brings along: run if they take no time, else not at all.

Those that are run are of text, `.`, classes and `\\d`, choices of these in brackets, `^` and `$`,
with at most two repetitions, and few choices: then no name makes them try without end.
"""

from __future__ import annotations

import re
from math import prod

_CLASS = r"\[[A-Za-z0-9_-]+\]|\\d"
_PLAIN = rf"[A-Za-z0-9_-]|\\[._-]|{_CLASS}"
_CHOICES = rf"\((?:\?:)?(?:{_PLAIN}|[.|])*\)"
_SAFE = re.compile(rf"\^?(?:(?:{_CLASS})\+?|{_PLAIN}|\.[*+]?|{_CHOICES})*\$?")
_LITERAL = re.compile(r"\^?((?:[A-Za-z0-9_-]|\\[._-])+)\$")
_REPEATS = re.compile(r"(?<!\\)[*+]")
_GROUPS = re.compile(_CHOICES)
LONGEST = 300  # of a pattern, and of a name
_MOST_REPEATS, _MOST_CHOICES = 2, 64


def literal(pattern: str) -> str:
    """The only text that a pattern fits, as in `^model\\.layers\\.0$`; "" if there are others."""
    found = _LITERAL.fullmatch(pattern)
    return found[1].replace("\\", "") if found and len(pattern) <= LONGEST else ""


def compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern that may be matched with names of at most `LONGEST` letters; None for any other."""
    if len(pattern) > LONGEST or _SAFE.fullmatch(pattern) is None:
        return None
    if len(_REPEATS.findall(pattern)) > _MOST_REPEATS or _choices(pattern) > _MOST_CHOICES:
        return None
    try:
        return re.compile(pattern)
    except re.error:  # a range that runs backwards
        return None


def cost(pattern: str, letters: int) -> int:
    """The steps, at most, that a compiled pattern takes for a name of so many letters."""
    repeats: int = len(_REPEATS.findall(pattern))
    return _choices(pattern) * int(max(1, letters) ** (1 + repeats))


def _choices(pattern: str) -> int:
    """In how many ways the groups of choices can be passed."""
    return prod(1 + group.count("|") for group in _GROUPS.findall(pattern))
