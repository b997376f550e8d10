"""The same for many files: one after the other here, many at a time where each is a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from anamnesis.readers.source import is_url

REQUESTS = 32  # that wait for a server at a time
T = TypeVar("T")


def together(where: str, function: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """What `function` gives for each of `names`, in order; they are files of `where`."""
    if len(names) < 2 or not is_url(where):
        yield from map(function, names)
        return
    with ThreadPoolExecutor(min(REQUESTS, len(names))) as pool:
        yield from pool.map(function, names)


__all__ = ["together"]
