"""NumPy's .npy: one array behind a header that is a Python literal.

Layout: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, and
numpy/lib/_format_impl.py for what is written:

    bytes 0..5    magic    "\\x93NUMPY"
    bytes 6..7    version  1.0, 2.0 or 3.0
    bytes 8..     u16 LE (1.0) or u32 LE (2.0, 3.0): bytes of the header
                  {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, spaces, newline
                  in Latin-1 (3.0: UTF-8), then the numbers and nothing else

The literal is read by a parser of its own that knows strings, numbers, tuples and lists; nothing is
evaluated. Object arrays are pickles and are refused unread.

BF16: numpy has no name for it. `ml_dtypes.bfloat16` is written as `<V2`, and by other versions
and by JAX's own habit as `|V2`: two bytes of no type, which numpy.load gives back as void. Both
are taken as BF16 here, `>V2` as BF16 with its bytes swapped. `<f1` is float8_e5m2: ml_dtypes writes
this for no other type. The rest of its small types is `<V1`, which does not say which one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from anamnesis.errors import AnamnesisError, FormatError, SecurityError, UnsupportedError
from anamnesis.limits import NPY_HEADER_BYTES, RANK, Limits
from anamnesis.readers.base import Container, FileId, Member, Stored, View
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.literal import parse_literal
from anamnesis.readers.source import open_source
from anamnesis.readers.strides import column_major, view_strides

MAGIC = b"\x93NUMPY"
START_BYTES = 256  # holds nearly every header
DIMENSION_LIMIT = 1 << 63
_KEYS = ("descr", "fortran_order", "shape")
_DESCR = re.compile(r"([<>|]?)([A-Za-z])([0-9]{0,9})((?:\[[^\]]*\])?)")

# Type characters and item sizes: the safetensors name, and the size of the numbers to swap.
_DTYPES = {
    "V2": ("BF16", 2),
    "b1": ("BOOL", 1),
    "c8": ("C64", 4),
    "f1": ("F8_E5M2", 1),
    "f2": ("F16", 2),
    "f4": ("F32", 4),
    "f8": ("F64", 8),
    **{f"i{n}": (f"I{8 * n}", n) for n in (1, 2, 4, 8)},
    **{f"u{n}": (f"U{8 * n}", n) for n in (1, 2, 4, 8)},
}
_UNSUPPORTED = {
    "c16": "complex128",
    "c24": "complex long double",
    "c32": "complex long double",
    "f12": "long double",
    "f16": "long double",
    "V1": "a type of 8 bits or fewer of ml_dtypes (float8, int4, …), of which .npy keeps no name",
    "W4": "half-precision complex of ml_dtypes",
}
_UNSUPPORTED_KINDS = {"M": "dates", "S": "byte strings", "U": "text", "V": "void", "m": "durations"}


class NotNumbersError(UnsupportedError):
    """An array of text, dates, structures or wide complex numbers, which no weight is."""


class Header(NamedTuple):
    """What a header tells; `shape` outermost first, `nbytes` of the numbers."""

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    swap: int  # bytes of the numbers to swap, 0 for none
    nbytes: int


def open_npy(path: str, limits: Limits) -> Container:
    """Parse the header of a .npy file; its one tensor has the file's name without the suffix.

    Raises FormatError, UnsupportedError (strings, dates, structures, long doubles, …),
    SecurityError (objects, which are pickles), LimitError or OSError.
    """
    with open_source(path) as file:
        try:
            stored = read_array(
                path,
                os.path.splitext(os.path.basename(path))[0],
                file.id,
                file.size,
                None,
                lambda nbytes: file.read(0, min(nbytes, file.size)),
                limits,
            )
        except NotNumbersError as error:
            raise UnsupportedError(str(error)) from None
        return Container("npy", (file.id,), {stored.name: stored})


def read_array(
    where: str,
    name: str,
    file: FileId,
    size: int,
    member: Member | None,
    start: Callable[[int], bytes],
    limits: Limits,
) -> Stored:
    """The array in `size` bytes, of a file or a `member`.

    `start` gives the first bytes, as many as there are; one call is enough for most headers.
    """
    head = start(START_BYTES)
    offset, version = _header_span(where, head, size, limits)
    if offset > len(head):
        head = start(offset)
    text = _decode(where, head[_text_at(version) : offset], version)
    try:
        header = _parse(text)
    except AnamnesisError as error:
        raise type(error)(f"{where}: header: {error}") from None
    if size - offset != header.nbytes:
        raise FormatError(
            f"{where}: shape: {header.dtype} {list(header.shape)} takes {header.nbytes:,} bytes, "
            f"{size - offset:,} follow the header"
        )
    strides = None
    if header.fortran:
        strides = view_strides(header.shape, column_major(header.shape))
    view = None
    if strides is not None or header.swap or member is not None:
        view = View(strides, header.swap, member)
    if member is not None and not member.deflated:
        offset += member.offset
    return Stored(name, header.dtype, header.shape, file, offset, header.nbytes, view)


def objects_at(where: str, start: Callable[[int], bytes], limits: Limits) -> int | None:
    """Where the pickle of an array of objects begins; None for other arrays and broken headers."""
    head = start(START_BYTES)
    try:
        offset, version = _header_span(where, head, 1 << 62, limits)
        text = _decode(where, start(offset)[_text_at(version) : offset], version)
        _parse(text)
    except SecurityError:
        return offset
    except AnamnesisError:
        pass
    return None


def _text_at(version: int) -> int:
    return 10 if version == 1 else 12


def _header_span(where: str, head: bytes, size: int, limits: Limits) -> tuple[int, int]:
    """Where the data begins, and the version."""
    if not head.startswith(MAGIC):
        raise FormatError(f"{where}: magic: {head[:6]!r} is not {MAGIC!r}")
    version = tuple(head[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        found = ".".join(map(str, version)) or "none"
        raise FormatError(f"{where}: version: {found}; known are 1.0, 2.0 and 3.0")
    at = _text_at(version[0])
    if len(head) < at:
        raise FormatError(f"{where}: header length: the file ends before it")
    nbytes = int.from_bytes(head[8:at], "little")
    if nbytes > size - at:
        raise FormatError(f"{where}: header length: {nbytes:,}, but {size - at:,} bytes follow")
    limits.alloc(nbytes, f"{where}: header length", NPY_HEADER_BYTES)
    return at + nbytes, version[0]


def _decode(where: str, text: bytes, version: int) -> str:
    try:
        return text.decode("utf-8" if version == 3 else "latin-1")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: header: not UTF-8 at byte {error.start}") from None


@lru_cache(maxsize=256)
def _parse(text: str) -> Header:
    """Headers repeat, in an archive of many arrays."""
    table = parse_literal(text)
    if type(table) is not dict:
        raise FormatError("must be a dictionary")
    for key in _KEYS:
        if key not in table:
            raise FormatError(f"{key}: missing")
    if len(table) != len(_KEYS):
        raise FormatError(f"unknown key {next(k for k in table if k not in _KEYS)!r:.200}")
    dtype, swap = _dtype(table["descr"])
    fortran = table["fortran_order"]
    if type(fortran) is not bool:
        raise FormatError(f"fortran_order: must be True or False, found {fortran!r:.80}")
    shape = table["shape"]
    if type(shape) is not tuple or not all(type(d) is int for d in shape):
        raise FormatError(f"shape: must be a tuple of integers, found {shape!r:.80}")
    if len(shape) > RANK:
        raise FormatError(f"shape: rank {len(shape)}, numpy has at most {RANK}")
    # Absurd dimensions are refused beside a zero too.
    if math.prod(d or 1 for d in shape) >= DIMENSION_LIMIT:
        raise FormatError(f"shape: {shape!r:.200} has 2^63 elements or more")
    nbytes = math.prod(shape) * DTYPES[dtype].bits // 8
    return Header(dtype, shape, fortran, swap, nbytes)


def _dtype(descr: Any) -> tuple[str, int]:
    """The safetensors name, and the bytes to swap."""
    if type(descr) is not str:
        if type(descr) not in (list, tuple):
            raise FormatError(f"descr: must be text, found {descr!r:.80}")
        if _has_objects(descr):
            raise SecurityError(f"descr: {descr!r:.80} has Python objects, stored as a pickle")
        raise NotNumbersError(f"descr: {descr!r:.80}: structured arrays are not read")
    found = _DESCR.fullmatch(descr)
    if found is None:
        raise FormatError(f"descr: {descr!r:.80} is no type")
    order, kind, size, unit = found.groups()
    if kind == "O":
        raise SecurityError(f"descr: {descr!r:.80}: Python objects, stored as a pickle")
    row = _DTYPES.get(kind + size) if not unit else None
    if row is not None and (order != "|" or row[1] == 1 or kind == "V"):
        name, item = row
        return name, item if order == ">" and item > 1 else 0
    what = _UNSUPPORTED.get(kind + size)
    if what is None and (kind in "SUMm" or (kind == "V" and int(size or 0))):
        what = _UNSUPPORTED_KINDS[kind]
    if what is None:
        raise FormatError(f"descr: {descr!r:.80} is no type")
    weights = kind == "f" or kind + size == "V1"
    error = UnsupportedError if weights else NotNumbersError
    raise error(f"descr: {descr!r:.80} ({what}) is not read; these are: {_known()}")


def _known() -> str:
    return ", ".join(sorted({name for name, _ in _DTYPES.values()}))


def _has_objects(descr: Any) -> bool:
    if type(descr) is str:
        found = _DESCR.fullmatch(descr)
        return found is not None and found[2] == "O"
    return type(descr) in (list, tuple) and any(map(_has_objects, descr))
