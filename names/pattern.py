"""Patterns: how the axes of a tensor under one convention become those of another.

A pattern is written like `(h t d) ... -> (h d t) ...`, Hugging Face on the left, GGUF on the right:

- a word is an axis, words in parentheses are axes that lie together in one dimension;
- `...` stands for the remaining dimensions, which stay as they are;
- `1` is a dimension of one element;
- `+` before an axis, or a parenthesis, marks where several tensors are joined one after another;
  before a parenthesis among others, `(h +(d t))`, axes that may be others in each of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\+?\(|\)|\+?[a-z]+|1|\.\.\.")
REST = "..."


@dataclass(frozen=True, slots=True)
class Side:
    """One convention's dimensions, each a tuple of axes; `join` is a dimension, or axes of it.

    `joined` are those axes, neighbours, or empty where the whole dimension `join` is joined; `join`
    is -1 where one tensor is all there is.
    """

    dims: tuple[tuple[str, ...], ...]
    join: int = -1
    joined: tuple[str, ...] = ()

    @property
    def along(self) -> tuple[str, ...]:
        """The axes along which tensors are joined."""
        return self.joined or self.dims[self.join]

    @property
    def around(self) -> tuple[str, ...]:
        """The other axes of the dimension that is joined."""
        return tuple(axis for axis in self.dims[self.join] if axis not in self.along)

    def expand(self, rank: int) -> Side:
        """The same with `...` replaced, for a tensor of `rank` dimensions.

        Raises ValueError when there are too few or too many.
        """
        if (REST,) not in self.dims:
            if len(self.dims) != rank:
                raise ValueError(f"has {rank} dimensions, the pattern {len(self.dims)}")
            return self
        at = self.dims.index((REST,))
        extra = rank - (len(self.dims) - 1)
        if extra < 0:
            raise ValueError(f"has {rank} dimensions, the pattern at least {len(self.dims) - 1}")
        rest = tuple((f"rest{k}",) for k in range(extra))
        join = self.join if self.join < at else self.join + extra - 1
        return Side((*self.dims[:at], *rest, *self.dims[at + 1 :]), join, self.joined)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Both sides of a pattern, and the sizes of axes: integers, or names of facts of the model."""

    hf: Side
    gguf: Side
    sizes: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> Pattern:
    """Read `LEFT -> RIGHT [; axis=size …]`; ValueError for what is no pattern."""
    body, _, tail = text.partition(";")
    left, arrow, right = body.partition("->")
    if not arrow:
        raise ValueError(f"{text!r}: no '->'")
    sizes = tuple(tuple(pair.split("=", 1)) for pair in tail.split())
    return Pattern(_side(left), _side(right), tuple((a, b) for a, b in sizes))


def _side(text: str) -> Side:
    dims: list[tuple[str, ...]] = []
    group: list[str] | None = None
    inner = -1  # where a parenthesis within one began
    join = -1
    joined: tuple[str, ...] = ()
    if _TOKEN.sub("", text).strip():
        raise ValueError(f"{text!r}: is no side of a pattern")
    for token in _TOKEN.findall(text):
        word = token.removeprefix("+")
        if word == "(" and group is not None:
            inner = len(group)
        elif word == "(":
            group = []
            join = len(dims) if token != word else join
        elif word == ")" and inner >= 0:
            join, joined, inner = len(dims), tuple((group or ())[inner:]), -1
        elif word == ")":
            dims.append(tuple(group or ()))
            group = None
        elif group is not None:
            group.append(word)
            if token != word:
                join, joined = len(dims), (word,)
        else:
            join = len(dims) if token != word else join
            dims.append((f"one{len(dims)}",) if word == "1" else (word,))
    return Side(tuple(dims), join, joined)


IDENTITY = parse("... -> ...")


def stacked(pattern: Pattern) -> Pattern:
    """The pattern of one of many tensors that GGUF stacks along a new first dimension."""
    gguf = Side((("one",), *pattern.gguf.dims), 0)
    return Pattern(pattern.hf, gguf, (*pattern.sizes, ("one", "1")))
