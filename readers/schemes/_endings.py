"""What the names of a model end in, of which there may be a million."""

from __future__ import annotations

from collections.abc import Iterable

_LAST = 4  # characters, of which there are few kinds however many names there are


class Endings:
    """The endings of many names: one text is searched faster than name by name.

    That of the last characters, which is short, tells mostly that there is no such ending.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._names = "\n".join(names) + "\n"
        self._last = "\n".join({name[-_LAST:] for name in names}) + "\n"

    def any(self, *endings: str) -> bool:
        """Whether any name ends in one of `endings`."""
        return any(
            f"{ending[-_LAST:]}\n" in self._last and f"{ending}\n" in self._names
            for ending in endings
        )


__all__ = ["Endings"]
