"""A parser for the Python literal in a .npy header: text, integers, booleans, and what holds them.

Far less than Python's own grammar: no escapes in strings, no signs, no operators, no calls, so
nothing that it takes can cost more than its length.
"""

from __future__ import annotations

import re
from typing import Any

from anamnesis.errors import FormatError

_DEPTH = 16
_INT_DIGITS = 20  # of 2^64
_SPACE = re.compile(r"[ \t\r\n\f]*")
_TOKEN = re.compile(
    r"""(?P<text>'[^'\\\n]*'|"[^"\\\n]*")"""
    r"|(?P<int>[0-9]+)L?(?![\w.])"  # Python 2 wrote long integers with an L
    r"|(?P<word>True|False)(?!\w)"
    r"|(?P<mark>[][(){},:])",
    re.ASCII,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def parse_literal(text: str) -> Any:
    """The value of `text`; raises FormatError for anything else than the literals above."""
    parser = _Parser(text)
    value = parser.value(parser.next(), 0)
    kind, found = parser.next()
    if kind != "end":
        raise FormatError(f"{found!r:.80} after its end")
    return value


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def next(self) -> tuple[str, str]:
        """The next token: its kind and its text."""
        space = _SPACE.match(self._text, self._at)
        start = space.end() if space else self._at
        if start == len(self._text):
            return "end", ""
        token = _TOKEN.match(self._text, start)
        if token is None:
            raise FormatError(f"{self._text[start : start + 20]!r} is no literal of a header")
        self._at = token.end()
        kind = str(token.lastgroup)
        return kind, token[kind]

    def value(self, token: tuple[str, str], depth: int) -> Any:
        """The value that begins with `token`."""
        kind, text = token
        if kind == "text":
            return text[1:-1]
        if kind == "word":
            return text == "True"
        if kind == "int":
            if len(text) > _INT_DIGITS:
                raise FormatError(f"an integer of {len(text):,} digits")
            return int(text)
        if text not in _CLOSING or kind == "end":
            raise FormatError(f"{text or 'its end'!r} where a value belongs")
        if depth == _DEPTH:
            raise FormatError(f"nested over {_DEPTH} levels deep")
        if text == "{":
            return self._dict(depth + 1)
        items, comma = self._items(_CLOSING[text], depth + 1)
        if text == "[":
            return items
        # Parentheses around one value, without a comma, are no tuple.
        return items[0] if len(items) == 1 and not comma else tuple(items)

    def _items(self, closing: str, depth: int) -> tuple[list[Any], bool]:
        items: list[Any] = []
        while True:
            token = self.next()
            if token == ("mark", closing):
                return items, True
            items.append(self.value(token, depth))
            mark = self._mark(f",{closing}")
            if mark == closing:
                return items, False

    def _dict(self, depth: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        while True:
            token = self.next()
            if token == ("mark", "}"):
                return table
            kind, text = token
            if kind != "text":
                raise FormatError(f"key {text!r:.80}: must be text")
            key = text[1:-1]
            if key in table:
                raise FormatError(f"key {key!r:.80}: is given twice")
            self._mark(":")
            table[key] = self.value(self.next(), depth)
            if self._mark(",}") == "}":
                return table

    def _mark(self, allowed: str) -> str:
        kind, text = self.next()
        if kind != "mark" or text not in allowed:
            raise FormatError(f"{text or 'its end'!r:.80} where one of {allowed!r} belongs")
        return text
