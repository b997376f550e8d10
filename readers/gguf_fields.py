"""The header of a GGUF file, field by field, in chunks that follow the header and stop with it.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, whose number
tells the byte order of all others:

    magic "GGUF", version u32, tensor count u64, key/value count u64
    key/value     key string, value type u32, value; an array is item type u32, count u64, items,
                  which may be arrays again
    tensor        name string, dimension count u32, dimensions u64 (fastest first), ggml type u32,
                  offset u64 (from the start of the data, a multiple of `general.alignment`)
    string        length u64, bytes in UTF-8, no NUL at the end

Every length is held against the bytes that are left before anything is read or made for it.
Arrays of a vocabulary's size are walked over, not kept.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import GGUF_ALIGNMENT, GGUF_ARRAY_ITEMS, GGUF_ITEMS, Limits, MiB
from anamnesis.readers.gguf_cursor import BIG, LITTLE, Cursor
from anamnesis.readers.gguf_types import ARRAY, BOOL, NUMBERS, STRING, KeyValue
from anamnesis.readers.impostors import HEAD_BYTES, recognise
from anamnesis.readers.source import SourceFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 5  # ggml's are 4; files for diffusion models have Conv3d weights
MAX_NESTING = 4  # of arrays in arrays
NESTED_ARRAYS = 1 << 16  # in one file
DEFAULT_ALIGNMENT = 32
METADATA_BYTES = 100 * MiB  # of strings and lists kept
KEPT_NUMBERS = 1024  # longer arrays are summed up as their type and count
KEPT_STRINGS = 64

_ARRAY_BYTES = 4 + 8  # of an array without items
_KEY_VALUE_BYTES = 8 + 1 + 4 + 1  # the least that an entry can take
_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8
# What follows the number of dimensions: dimensions, type, offset.
_BEHIND_NAME = {
    order: tuple(struct.Struct(f"{order}{n}QIQ") for n in range(MAX_DIMENSIONS + 1))
    for order in (LITTLE, BIG)
}
_UINT32 = 4


class _Number(NamedTuple):
    name: str
    code: str  # of struct
    nbytes: int


_NUMBERS = {i: _Number(name, code, struct.calcsize(code)) for i, (name, code) in NUMBERS.items()}


class TensorInfo(NamedTuple):
    """A tensor as the header lists it; `dims` are fastest first, `offset` is within the data."""

    name: str
    dims: tuple[int, ...]
    type_id: int
    offset: int


class Header(NamedTuple):
    """What a header says, and where the data starts (the header's end, aligned)."""

    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    alignment: int
    data_start: int
    big_endian: bool


def read_header(file: SourceFile, limits: Limits) -> Header:
    """Parse the header of an open file; raises FormatError, UnsupportedError, LimitError."""
    cursor = Cursor(file)
    _check_magic(cursor)
    n_tensors, n_key_values = _counts(cursor)
    for count, least, what in (
        (n_tensors, _TENSOR_BYTES, "tensor count (bytes 8..15)"),
        (n_key_values, _KEY_VALUE_BYTES, "key/value count (bytes 16..23)"),
    ):
        if count * least > cursor.left:
            raise cursor.error(what, f"{count:,} entries cannot fit in {cursor.left:,} bytes")
        limits.items(count, f"{file.path}: {what}", GGUF_ITEMS)
    limits.tensors(n_tensors, f"{file.path}: tensor count (bytes 8..15)")
    metadata = _key_values(cursor, n_key_values, limits)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    tensors = _tensors(cursor, n_tensors)
    start = -(-cursor.at // alignment) * alignment
    return Header(metadata, tensors, alignment, start, cursor.order == BIG)


def _counts(cursor: Cursor) -> tuple[int, int]:
    """How many tensors there are, and how many key/values."""
    what = "tensor and key/value counts"
    return cursor.u64(what), cursor.u64(what)


def read_key_values(file: SourceFile, limits: Limits) -> dict[str, KeyValue]:
    """All key/values of an open file with their types, arrays of any length whole.

    Raises what `read_header` raises, LimitError when they take more than `METADATA_BYTES`.
    """
    cursor = Cursor(file)
    _check_magic(cursor)
    _, count = _counts(cursor)
    limits.items(count, f"{file.path}: key/value count (bytes 16..23)", GGUF_ITEMS)
    found: dict[str, KeyValue] = {}
    kept_bytes = 0
    for index in range(count):
        key = cursor.name(f"key {index:,}")
        what = f"value of {key!r:.200}"
        type_id = cursor.u32(what)
        if type_id != ARRAY:
            found[key] = KeyValue(type_id, _value(cursor, type_id, what, limits))
            continue
        item_type, count = cursor.u32(what), cursor.u64(what)
        items = _items(cursor, item_type, count, what, limits)
        kept_bytes += _kept_bytes(items)
        limits.alloc(kept_bytes, f"{file.path}: key/values", METADATA_BYTES)
        found[key] = KeyValue(ARRAY, items, item_type)
    return found


class ArrayPlace(NamedTuple):
    """Where the items of an array lie in the file, their type and how many there are."""

    offset: int
    item_type: int
    items: int
    big_endian: bool


def find_array(file: SourceFile, key: str, limits: Limits) -> ArrayPlace | None:
    """Where the array `key` lies in an open file; None where there is none of that name.

    Raises what `read_header` raises.
    """
    cursor = Cursor(file)
    _check_magic(cursor)
    _, count = _counts(cursor)
    limits.items(count, f"{file.path}: key/value count (bytes 16..23)", GGUF_ITEMS)
    for index in range(count):
        name = cursor.name(f"key {index:,}")
        what = f"value of {name!r:.200}"
        type_id = cursor.u32(what)
        if type_id != ARRAY:
            _value(cursor, type_id, what, limits)
        elif name == key:
            item_type, items = cursor.u32(what), cursor.u64(what)
            _check_array(cursor, item_type, items, what, limits)
            return ArrayPlace(cursor.at, item_type, items, cursor.order == BIG)
        else:
            _array(cursor, what, limits, 0)
    return None


def _items(cursor: Cursor, type_id: int, count: int, what: str, limits: Limits) -> list[Any]:
    """The items of an array, whose length is held against the bytes that are left."""
    _check_array(cursor, type_id, count, what, limits)
    row = _NUMBERS.get(type_id)
    if row is None:
        return [cursor.string(what, limits) for _ in range(count)]
    values = struct.unpack(
        f"{cursor.order}{count}{row.code}", cursor.take(count * row.nbytes, what)
    )
    return list(map(bool, values)) if type_id == BOOL else list(values)


def _check_array(cursor: Cursor, type_id: int, count: int, what: str, limits: Limits) -> None:
    row = _NUMBERS.get(type_id)
    if row is None and type_id != STRING:
        why = "are not carried over" if type_id == ARRAY else "do not exist"
        raise cursor.error(what, f"arrays of value type {type_id:,} {why}")
    least = row.nbytes if row else 8
    if count * least > cursor.left:
        raise cursor.error(what, f"{count:,} items cannot fit in {cursor.left:,} bytes")
    limits.items(count, f"{cursor.file.path}: {what}: array", GGUF_ARRAY_ITEMS)


def _check_magic(cursor: Cursor) -> None:
    file = cursor.file
    head = file.read(0, min(file.size, HEAD_BYTES))
    if head[:4] != MAGIC:
        other = recognise(file.path, head, "safetensors and GGUF")
        raise other or FormatError(
            f"{file.path}: magic (bytes 0..3): must be {MAGIC!r}, found {head[:4]!r}"
        )
    cursor.skip(4, "magic")
    version = cursor.u32("version (bytes 4..7)")
    if version in VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    known = "versions 2 and 3 are read"
    if swapped in VERSIONS:
        cursor.order = BIG
        return
    if 1 in (version, swapped):
        raise UnsupportedError(f"{file.path}: is GGUF v1, with 32-bit counts; {known}")
    raise FormatError(f"{file.path}: version (bytes 4..7): {version:,}; {known}")


def _key_values(cursor: Cursor, count: int, limits: Limits) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    kept_bytes = 0
    for index in range(count):
        key = cursor.name(f"key {index:,}")
        if key in metadata:
            raise cursor.error(f"key {key!r:.200}", "is given twice")
        what = f"value of {key!r:.200}"
        type_id = cursor.u32(what)
        value: Any
        if key == "general.alignment":
            value = _alignment(cursor, type_id, limits)
        elif type_id == ARRAY:
            value = _array(cursor, what, limits, 0)
        else:
            value = _value(cursor, type_id, what, limits)
        if isinstance(value, (str, list)):
            kept_bytes += _kept_bytes(value)
            limits.alloc(kept_bytes, f"{cursor.file.path}: key/values", METADATA_BYTES)
        metadata[key] = value
    return metadata


def _kept_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return 32 + sum(map(_kept_bytes, value)) if isinstance(value, list) else 32


def _alignment(cursor: Cursor, type_id: int, limits: Limits) -> int:
    what = "value of 'general.alignment'"
    if type_id != _UINT32:
        raise cursor.error(what, f"value type {type_id}; it must be uint32 ({_UINT32})")
    alignment = cursor.u32(what)
    if alignment == 0 or alignment & (alignment - 1):
        raise cursor.error(what, f"{alignment:,} is no power of two")
    limits.alloc(alignment, f"{cursor.file.path}: {what}", GGUF_ALIGNMENT)
    return alignment


def _value(cursor: Cursor, type_id: int, what: str, limits: Limits) -> Any:
    if type_id == STRING:
        return cursor.string(what, limits)
    row = _NUMBERS.get(type_id)
    if row is None:
        raise cursor.error(what, f"value type {type_id:,} is none of 0 to 12")
    value = struct.unpack(cursor.order + row.code, cursor.take(row.nbytes, what))[0]
    if type_id == BOOL:
        if value > 1:
            raise cursor.error(what, f"{value} is no bool; 0 and 1 are")
        return bool(value)
    return value


def _array(cursor: Cursor, what: str, limits: Limits, depth: int) -> Any:
    """A short array as a list, a long one as `{"type": item type, "count": items}`."""
    type_id = cursor.u32(what)
    count = cursor.u64(what)
    row = _NUMBERS.get(type_id)
    if type_id == ARRAY:
        return _nested(cursor, count, what, limits, depth + 1)
    if count <= (KEPT_NUMBERS if row else KEPT_STRINGS):
        return _items(cursor, type_id, count, what, limits)
    _check_array(cursor, type_id, count, what, limits)
    if row is None:
        cursor.skip_strings(count, what)
        return {"type": "string", "count": count}
    cursor.skip(count * row.nbytes, what)
    return {"type": row.name, "count": count}


def _nested(cursor: Cursor, count: int, what: str, limits: Limits, depth: int) -> Any:
    """The items of an array of arrays; each is walked over, however many are kept."""
    if count * _ARRAY_BYTES > cursor.left:
        raise cursor.error(what, f"{count:,} arrays cannot fit in {cursor.left:,} bytes")
    if depth > MAX_NESTING:
        raise cursor.error(what, f"arrays are nested more than {MAX_NESTING} deep")
    cursor.arrays += count
    limits.items(cursor.arrays, f"{cursor.file.path}: {what}: arrays in arrays", NESTED_ARRAYS)
    kept = [_array(cursor, what, limits, depth) for _ in range(count)]
    return kept if count <= KEPT_NUMBERS else {"type": "array", "count": count}


class _About:
    """The tensor that is being read, for messages alone: there may be a million of them."""

    __slots__ = ("name", "number")

    def __init__(self) -> None:
        self.number, self.name = 0, ""

    def __str__(self) -> str:
        return f"tensor {self.name!r:.200}" if self.name else f"name of tensor {self.number:,}"


def _tensors(cursor: Cursor, count: int) -> list[TensorInfo]:
    tensors = []
    about = _About()
    for index in range(count):
        about.number, about.name = index, ""
        name = about.name = cursor.name(about)
        n_dims = cursor.u32(about)
        if n_dims > MAX_DIMENSIONS:
            raise cursor.error(
                about, f"dimension count {n_dims:,}; at most {MAX_DIMENSIONS} are allowed"
            )
        fields = _BEHIND_NAME[cursor.order][n_dims]
        *dims, type_id, offset = fields.unpack(cursor.take(fields.size, about))
        tensors.append(TensorInfo(name, tuple(dims), type_id, offset))
    return tensors
