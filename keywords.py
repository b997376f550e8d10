"""Keyword arguments of the public functions: their types, and what a misspelt one is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Literal, ParamSpec, TypeAlias, TypeVar, get_args

from anamnesis.errors import ArgumentError, printable
from anamnesis.words import did_you_mean, meant, nearest

PathLike: TypeAlias = str | os.PathLike[str]
Patterns: TypeAlias = str | Sequence[str]  # shell patterns on names; a text is one of them
Size: TypeAlias = int | str  # bytes, or text such as "512MiB"
Threads: TypeAlias = int | Literal["auto"]
Dtype: TypeAlias = Literal["bf16", "f16", "f32"]
Executor: TypeAlias = Literal["serial", "threads", "distributed"]
Names: TypeAlias = Literal["stored", "hf"]
OutputNames: TypeAlias = Literal["stored", "hf", "mmproj"]
Rounding: TypeAlias = Literal["exact", "reference"]

# By the name that annotations have. Words of a job's settings are looked at with the job.
_WORDS = {"Names": get_args(Names), "Rounding": get_args(Rounding)}

P = ParamSpec("P")
R = TypeVar("R")
_SHOWN = 3  # names that an error shows
_ALIKE = 0.5  # as difflib counts; `dtyp` and `dtype` are 0.89


def keywords(function: Callable[P, R], name: str = "") -> Callable[P, R]:
    """The same function, which raises ArgumentError for a keyword that it does not have.

    So it does for an argument, annotated `PathLike`, that is no path, and for one that has to be
    one of few words and is another.
    Names, types and defaults stay those of `function`, for `help()`, editors and type checkers.
    `name` is what callers know it by.
    """
    called = name or function.__name__
    parameters = signature(function).parameters
    names = tuple(n for n in parameters if n != "self")
    paths = {n: at for at, n in enumerate(parameters) if parameters[n].annotation == "PathLike"}
    kinds = {n: str(parameters[n].annotation).removesuffix(" | None") for n in names}
    words = {n: _WORDS[kind] for n, kind in kinds.items() if kind in _WORDS}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for key in kwargs:
            if key not in names:
                raise ArgumentError(_message(called, key, names))
        for key, at in paths.items():
            given = args[at] if at < len(args) else kwargs.get(key, "")
            if not isinstance(given, str | bytes | os.PathLike):
                raise ArgumentError(f"{called}: {key}: found {given!r:.100}; allowed: a path")
        for key, allowed in words.items():
            word = kwargs.get(key)  # none of them is positional
            if word is not None and word not in allowed:
                raise ArgumentError(f"{called}: {key}: {wrong_word(word, allowed)}")
        return function(*args, **kwargs)

    return checked


def wrong_word(given: object, allowed: Sequence[str]) -> str:
    """What to say of a word that is none of the `allowed`, with the nearest of them."""
    likely = did_you_mean(meant(given, allowed), "; ")
    return f"found {printable(repr(given))[:100]}; allowed: {' | '.join(allowed)}{likely}"


def missing(what: str, name: object, names: Sequence[str]) -> KeyError:
    """The KeyError for a name that is not there, with the nearest of the `names` that are."""
    wanted = str(name)[:200]
    near = [n for n in names if wanted in n][:_SHOWN] or nearest(wanted, names)
    there = f"; there is {', '.join(map(repr, near))}" if near else ""
    return KeyError(f"no {what} {printable(name)!r:.210}{there}")


def _message(function: str, name: str, names: Sequence[str]) -> str:
    near = meant(name, names, _ALIKE)
    known = f"its keywords are {', '.join(names)}" if names else "it takes none"
    likely = did_you_mean(near) or known
    return f"{function}() has no keyword {printable(name)!r:.100}; {likely}"


__all__ = [
    "Dtype",
    "Executor",
    "Names",
    "PathLike",
    "Patterns",
    "Rounding",
    "Size",
    "Threads",
    "keywords",
    "missing",
    "wrong_word",
]
