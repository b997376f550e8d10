"""Shell patterns on tensor names: a pattern that fits no tensor is a misspelt one.

Taken for "nothing to do", it would pass for success: an include that fits nothing makes an empty
output, an exclude that fits nothing converts what was to be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from anamnesis.errors import ArgumentError, UsageError
from anamnesis.words import nearest


def patterns(given: str | Iterable[str], name: str = "patterns") -> list[str]:
    """The patterns of an argument or a setting: a text is one of them, and no list of letters.

    Raises ArgumentError, with the `name` of the keyword, for what is no text and no list of texts.
    """
    if isinstance(given, str):
        return [given]
    listed = isinstance(given, Iterable) and not isinstance(given, Mapping | bytes | bytearray)
    found: list[Any] = list(given) if listed else [given]
    if not listed or not all(isinstance(one, str) for one in found):
        raise ArgumentError(f"{name}: found {given!r:.100}; allowed: a pattern, or a list of them")
    return found


def matching(names: Iterable[str], wanted: Iterable[str]) -> set[str]:
    """Those of the patterns that fit at least one of the names."""
    known = list(names)
    return {p for p in wanted if any(fnmatchcase(name, p) for name in known)}


def require_matches(
    names: Iterable[str], wanted: Sequence[str], path: str, matched: set[str] | None = None
) -> None:
    """UsageError that names the patterns which fit no tensor of the model at `path`.

    `matched` are those that are known to fit. A model without tensors asks for none.
    """
    known = list(names)
    fitting = matching(known, wanted) if matched is None else matched
    missing = [p for p in wanted if p not in fitting]
    if not missing or not known:
        return
    near = nearest(missing[0], known, 0.0)
    one = len(missing) == 1
    raise UsageError(
        f"{path}: no tensor fits the pattern{'' if one else 's'} "
        f"{', '.join(map(repr, missing))}; names are such as {(near or known)[0]}"
    )


__all__ = ["matching", "patterns", "require_matches"]
