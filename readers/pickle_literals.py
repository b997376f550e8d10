"""Numbers and text of a pickle: from an opcode's argument to a value on the stack.

Text is decoded here rather than by CPython's own helpers, which warn about escapes and take
underscores for digits; integers are bounded before they are parsed.
"""

from __future__ import annotations

import re

from anamnesis.readers.pickle_vm import TEXT_BYTES, Machine

LINE_BYTES = 1 << 16
INTEGER_BYTES = 255  # as much as LONG1 can hold; longer integers are no numbers of a checkpoint
_INTEGER = re.compile(rb"-?[0-9]{1,600}")
_FLOAT = re.compile(rb"-?(?:[0-9]{1,400}\.?[0-9]{0,400}(?:e[+-]?[0-9]{1,4})?|inf|nan)")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|[abfnrtv\\'\"\n])")
_ESCAPES = dict(zip(b"abfnrtv\\'\"", b"\a\b\f\n\r\t\v\\'\"", strict=True))


def push_text(machine: Machine, raw: bytes) -> None:
    """Push text as Python's `str` opcodes spell it: UTF-8, with lone surrogates."""
    # One wide character makes all of a str four bytes wide.
    machine.charge(TEXT_BYTES + (0 if raw.isascii() else 4 * len(raw)))
    try:
        machine.push(raw.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        raise machine.bad("text is not UTF-8") from None


def push_old_text(machine: Machine, raw: bytes) -> None:
    """Push a `str` of Python 2: text when it is UTF-8, as torch.load takes it, else bytes."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        push_bytes(machine, raw)
    else:
        push_text(machine, raw)


def push_bytes(machine: Machine, raw: bytes) -> None:
    """Push bytes as they are."""
    machine.charge(TEXT_BYTES)
    machine.push(raw)


def push_integer(machine: Machine, raw: bytes) -> None:
    """Push a signed little-endian integer; no bytes are 0."""
    if len(raw) > INTEGER_BYTES:
        raise machine.bad(f"an integer of {len(raw):,} bytes")
    machine.push_number(int.from_bytes(raw, "little", signed=True))


def read_int(machine: Machine) -> None:
    """The argument of INT: digits, or 00 and 01 for False and True."""
    raw = machine.line(LINE_BYTES)
    if raw in (b"00", b"01"):
        machine.push(raw == b"01")
        return
    _push_digits(machine, raw)


def read_long(machine: Machine) -> None:
    """The argument of LONG: digits and an L."""
    _push_digits(machine, machine.line(LINE_BYTES).removesuffix(b"L"))


def _push_digits(machine: Machine, raw: bytes) -> None:
    if not _INTEGER.fullmatch(raw):
        raise machine.bad(f"{raw[:40]!r} is no integer, or one of over 600 digits")
    machine.push_number(int(raw))


def read_float(machine: Machine) -> None:
    """The argument of FLOAT: what Python 2 printed."""
    raw = machine.line(LINE_BYTES)
    if not _FLOAT.fullmatch(raw):
        raise machine.bad(f"{raw[:40]!r} is no number")
    machine.push_number(float(raw))


def read_string(machine: Machine) -> None:
    """The argument of STRING: a Python 2 literal, with the escapes of bytes."""
    raw = machine.line(LINE_BYTES)
    if len(raw) < 2 or raw[0] != raw[-1] or raw[:1] not in (b"'", b'"'):
        raise machine.bad("a string without its quotes")
    push_old_text(machine, _ESCAPE.sub(_unescape, raw[1:-1]))


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code[:1] == b"x":
        return bytes((int(code[1:], 16),))
    if code[:1].isdigit():
        return bytes((int(code, 8) & 0xFF,))
    return b"" if code == b"\n" else bytes((_ESCAPES[code[0]],))


def read_unicode(machine: Machine) -> None:
    """The argument of UNICODE: text with \\u escapes."""
    try:
        decoded = machine.line(LINE_BYTES).decode("raw-unicode-escape")
    except UnicodeDecodeError:
        raise machine.bad("text has a broken escape") from None
    push_text(machine, decoded.encode("utf-8", "surrogatepass"))
