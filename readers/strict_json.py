"""JSON as files should have it (RFC 8259), with what the usual parsers let through refused.

Headers, indexes and configurations come from strangers. A name given twice means two different
files to two readers; `NaN`, a byte order mark and lone surrogates are no JSON at all; deep
nesting and millions of empty lists cost far more memory than they have bytes. The text's
skeleton (brackets, colons, commas) shows all of that before anything is built from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from anamnesis.errors import FormatError
from anamnesis.limits import GiB, Limits, MiB

MAX_DEPTH = 32
PARSED_BYTES = GiB  # of Python objects, estimated from the skeleton

_WORDS = re.compile(rb"NaN|Infinity")
_SKELETON = b'"[]{}:,'
_REST = bytes(set(range(256)) - set(_SKELETON))
_NAME_SEARCH_BYTES = 16 * MiB

# A dict of a few members, a list, a member's name, a value: measured on CPython 3.11, rounded up.
_DICT_BYTES, _LIST_BYTES, _MEMBER_BYTES, _VALUE_BYTES = 200, 72, 40, 40


def loads(data: bytes | bytearray, what: str, limits: Limits, *, python: bool = False) -> Any:
    """The value of a JSON text in UTF-8; `what` names the file and the field in errors.

    With `python`, NaN, Infinity and -Infinity are numbers too: Python's `json`, with which
    configurations are written, makes them.

    Raises FormatError for whatever is no JSON, for a name given twice in one object and for
    nesting deeper than `MAX_DEPTH`; LimitError when the parsed value would be too large.
    """
    members = _check_skeleton(data, what, limits)
    try:
        value = _python(data) if python and _WORDS.search(data) else msgspec.json.decode(data)
    except UnicodeError as error:
        raise FormatError(f"{what}: not UTF-8: {getattr(error, 'reason', error)}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise FormatError(f"{what}: {_reason(data, str(error))}") from None
    except RecursionError:
        raise FormatError(f"{what}: nested too deeply to parse here") from None
    if _members(value) != members:
        raise FormatError(f"{what}: {_repeated(data)} is given twice in one object")
    return value


def _python(data: bytes | bytearray) -> Any:
    """The value as Python reads it, whose texts must be texts here too."""
    value = json.loads(data.decode())
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no UTF-8
    return value


def _check_skeleton(data: bytes | bytearray, what: str, limits: Limits) -> int:
    """Check size and depth of the value before it is built; return the number of members."""
    text = data
    if b"\\" in text:
        # Runs of backslashes pair from the left; what is left before a quote escapes it.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two strings never touch in JSON, so "" is always one string without skeleton inside.
    skeleton = bytes(text.translate(None, _REST)).replace(b'""', b"")
    del text
    need = _estimate(skeleton) + len(data)
    limits.alloc(need, f"{what}: parsed JSON", PARSED_BYTES)
    limits.memory(need, f"{what}: parsed JSON")
    if b'"' in skeleton:
        skeleton = b"".join(skeleton.split(b'"')[::2])
    members = skeleton.count(b":")
    brackets = skeleton.translate(None, b":,")
    for _ in range(MAX_DEPTH):
        if not brackets:
            return members
        inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(inner) == len(brackets):
            raise FormatError(f"{what}: {_reason(data, 'brackets or quotes do not pair up')}")
        brackets = inner
    if brackets:
        raise FormatError(f"{what}: nested more than {MAX_DEPTH} deep")
    return members


def _estimate(skeleton: bytes) -> int:
    return (
        skeleton.count(b"{") * _DICT_BYTES
        + skeleton.count(b"[") * _LIST_BYTES
        + skeleton.count(b":") * _MEMBER_BYTES
        + skeleton.count(b",") * _VALUE_BYTES
        + skeleton.count(b'"') * 8
    )


def _members(value: Any) -> int:
    """Members of all objects in a parsed value; fewer than colons means that one was lost."""
    count = 0
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            inside: Iterable[Any] = item if type(item) is list else ()
            if type(item) is dict:
                count += len(item)
                inside = item.values()
            for one in inside:
                kind = type(one)
                if kind is dict or (kind is list and not _PLAIN.issuperset(map(type, one))):
                    inner.append(one)
        level = inner
    return count


_PLAIN = frozenset((int, float, str, bool, type(None)))  # in lists of a million entries


def _repeated(data: bytes | bytearray) -> str:
    """The first name that an object of valid JSON gives twice, for the message."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    if len(data) <= _NAME_SEARCH_BYTES:
        json.loads(data, object_pairs_hook=look)
    return f"{found[0]!r:.200}" if found else "a name"


def _reason(data: bytes | bytearray, message: str) -> str:
    """msgspec's message, or what the first bytes make more likely."""
    if data[:3] == b"\xef\xbb\xbf":
        return "starts with a byte order mark; JSON has none"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        return "not UTF-8 (UTF-16, UTF-32 or binary data)"
    try:
        data.decode()
    except UnicodeDecodeError as error:  # an error of its own before msgspec 0.23
        return f"not UTF-8: {error.reason}"
    return f"not JSON: {message}"
