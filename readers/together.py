"""The same for many files: one after the other here, many at a time where each is a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from anamnesis.readers.source import is_url

REQUESTS = 32  # that wait for a server at a time
S = TypeVar("S")
T = TypeVar("T")


def together(
    where: str, function: Callable[[S], T], files: Sequence[S], most: int = REQUESTS
) -> Iterator[T]:
    """What `function` gives for each of `files` of `where`, in order; at most `most` at a time."""
    if len(files) < 2 or not is_url(where):
        yield from map(function, files)
        return
    with ThreadPoolExecutor(min(most, len(files))) as pool:
        yield from pool.map(function, files)


__all__ = ["together"]
