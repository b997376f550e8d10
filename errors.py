"""Every error this package raises on purpose, with the exit code the command line gives it.

Each class is also a matching builtin, so that callers who know nothing of anamnesis
still catch what they expect. The file system's own `OSError` is passed through as it is.
"""

from __future__ import annotations

import re
from typing import Self

_END = r"\s'\"<>)\]"  # of a URL in a text
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?P<user>[^/@\s]*@)?"
    rf"(?P<rest>[^?{_END}]*)(?P<query>\?[^{_END}]*?(?=[:,.;]*(?:[{_END}]|$)))?"
)
_TOKEN = re.compile(r"\b((?i:bearer)\s+|hf_(?=[A-Za-z0-9]{20}))[A-Za-z0-9._~+/=-]{8,}")


def printable(value: object) -> str:
    """Text as one line that a terminal shows and does not obey."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def without_secrets(text: str) -> str:
    """Text whose URLs have neither password nor query (signatures, tokens), and no token alone."""
    if "://" in text:
        text = _URL.sub(_plain_url, text)
    return _TOKEN.sub(r"\1…", text)


def _plain_url(match: re.Match[str]) -> str:
    return match["scheme"] + match["rest"] + ("?…" if match["query"] else "")


class AnamnesisError(Exception):
    """Base of all deliberate errors; `kind` and `exit_code` are the command line's contract.

    Messages quote what files say; whatever a terminal would obey in them, a line's end too, is
    escaped here, once for all, and what is secret in a URL is left out.
    """

    kind = "error"
    exit_code = 1

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        # MemoryError's own, which comes before Exception's, makes no subclass when it is called by
        # name, as Dask's unpickling of errors does (tblib).
        return Exception.__new__(cls, *args)

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(without_secrets(str(message))))


class UsageError(AnamnesisError, ValueError):
    """A flag, a job file or an argument that cannot be meant."""

    kind = "usage"
    exit_code = 2


class ArgumentError(UsageError, TypeError):
    """A keyword that a function does not have, or a value of a kind that it does not take.

    The message names the keyword, and for an unknown one the nearest that there is.
    """


class FormatError(AnamnesisError, ValueError):
    """A file breaks its own format."""

    kind = "FormatError"
    exit_code = 3


class UnsupportedError(AnamnesisError, NotImplementedError):
    """A layout or a method that is not implemented."""

    kind = "UnsupportedError"
    exit_code = 4


class LimitError(AnamnesisError, MemoryError):
    """More is needed than a limit or a budget allows; `limit`, `need` and `have` say which."""

    kind = "LimitError"
    exit_code = 5

    def __init__(
        self, message: str, *, limit: str = "", need: int | None = None, have: int | None = None
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.need = need
        self.have = have


class SecurityError(AnamnesisError, RuntimeError):
    """Something that would run code or leave its folder."""

    kind = "SecurityError"
    exit_code = 6


class IntegrityError(AnamnesisError, ValueError):
    """A checksum that differs, or an input that changed while it was read."""

    kind = "IntegrityError"
    exit_code = 7


def __dir__() -> list[str]:
    """What people catch, and what every module has; not what this file is made of."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


__all__ = [
    "AnamnesisError",
    "ArgumentError",
    "FormatError",
    "IntegrityError",
    "LimitError",
    "SecurityError",
    "UnsupportedError",
    "UsageError",
]
