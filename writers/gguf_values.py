"""Key/values of a GGUF as bytes, typed as `readers.gguf_fields` reads them.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: key string, value type u32,
value; an array is item type u32, count u64, items; a string is length u64 and UTF-8 bytes.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from anamnesis.errors import FormatError, UsageError
from anamnesis.readers.gguf_types import ARRAY, NUMBERS, STRING, KeyValue

_NAMES = {STRING: "string", **{type_id: name for type_id, (name, _) in NUMBERS.items()}}


def encode(values: Mapping[str, KeyValue]) -> bytes:
    """All key/values, one after the other, in the order of the mapping."""
    return b"".join(_string(key) + _value(key, value) for key, value in values.items())


def pack(values: Mapping[str, KeyValue]) -> str:
    """Count and bytes of key/values as text, for a manifest."""
    data = struct.pack("<Q", len(values)) + encode(values)
    return base64.b64encode(zlib.compress(data, 6)).decode()


def unpack(text: str) -> tuple[int, bytes]:
    """What `pack` was given: the count, and the bytes; FormatError for anything else."""
    if not text:
        return 0, b""
    try:
        data = zlib.decompress(base64.b64decode(text, validate=True))
        return struct.unpack_from("<Q", data)[0], data[8:]
    except (ValueError, zlib.error, struct.error) as error:
        raise FormatError(f"key/values of a recorded GGUF: {error}") from error


def alignment_of(data: bytes, count: int) -> int:
    """`general.alignment` among encoded key/values, or 32."""
    key = _string("general.alignment") + struct.pack("<I", 4)
    at = data.find(key)
    found: int = struct.unpack_from("<I", data, at + len(key))[0] if count and at >= 0 else 32
    return found


def _value(key: str, value: KeyValue) -> bytes:
    head = struct.pack("<I", value.type_id)
    items: Sequence[Any] = value.value if value.type_id == ARRAY else [value.value]
    item_type = value.item_type if value.type_id == ARRAY else value.type_id
    if value.type_id == ARRAY:
        head += struct.pack("<IQ", item_type, len(items))
    try:
        if item_type == STRING:
            return head + b"".join(map(_string, items))
        return head + struct.pack(f"<{len(items)}{NUMBERS[item_type][1]}", *items)
    except (struct.error, OverflowError, AttributeError) as error:
        found = f"{value.value!r:.100}"
        raise UsageError(f"{key}: found {found}, no {_NAMES[item_type]}: {error}") from error


def _string(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    return struct.pack("<Q", len(data)) + data
