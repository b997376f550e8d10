"""Words that many messages share: the nearest of what is valid, and how many more there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MOST_CHARS = 60  # of a wrong word, whose comparison takes time with its length


def nearest(given: object, names: Iterable[str], alike: float = 0.6) -> list[str]:
    """The one of `names` that is spelt most like a word that is none of them, or none at all.

    `alike` is as difflib counts: from 0, for any, to 1.
    """
    from difflib import get_close_matches  # noqa: PLC0415

    return get_close_matches(str(given)[:_MOST_CHARS], list(names), 1, alike)


def did_you_mean(near: Sequence[str], before: str = "") -> str:
    """The question, after `before`; empty where nothing is near."""
    return f"{before}did you mean {' or '.join(map(repr, near))}?" if near else ""


def and_more(count: int, shown: int = 1, mark: str = "") -> str:
    """What follows the first `shown` of `count` things: `" and 2 more"`, or nothing."""
    return f"{mark} and {count - shown:,} more" if count > shown else ""


def some(names: Sequence[str], shown: int = 5, most: int = 0) -> str:
    """The first `shown` names, of at most `most` letters (0: all of them), and how many more."""
    listed = ", ".join(name[: most or None] for name in names[:shown])
    return listed + and_more(len(names), shown)


__all__ = ["and_more", "did_you_mean", "nearest", "some"]
