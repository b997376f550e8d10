"""ZIP archives whose headers and end records can be wrong in every field."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

MIB = 1 << 20


BIG = 0xFFFFFFFF


def array(value: Any = (1.0, 2.0, 3.0)) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value, "<f4"))
    return buffer.getvalue()


def deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def wide(*numbers: int, tail: bytes = b"") -> bytes:
    """A ZIP64 extra field."""
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers) + len(tail), *numbers) + tail


@dataclass(frozen=True)
class Entry:
    """A member; `local` and `central` override single fields of one of the two headers."""

    name: bytes = b"a.npy"
    data: bytes = array()
    packed: bytes | None = None  # deflated by default of `method` 8
    method: int = 0
    flags: int = 0
    extra: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    descriptor: bytes | None = None
    alone: bool = False  # only in the directory, at the offset in `central`

    def payload(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflate(self.data) if self.method == 8 else self.data

    def values(self) -> dict[str, Any]:
        return {
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.data),
            "packed": len(self.payload()),
            "size": len(self.data),
            "name": self.name,
            "extra": self.extra,
        }


def _common(v: dict[str, Any]) -> tuple[int, ...]:
    """The fields of both headers from the version to the lengths; of 1 January 1980."""
    lengths = (len(v["name"]), len(v["extra"]))
    return (20, v["flags"], v["method"], 0, 33, v["crc"], v["packed"], v["size"], *lengths)


def local_header(entry: Entry) -> bytes:
    v = entry.values() | entry.local
    fixed = struct.pack("<4s5H3I2H", b"PK\3\4", *_common(v))
    return b"".join((fixed, v["name"], v["extra"]))


def central_header(entry: Entry, offset: int) -> bytes:
    v = entry.values() | {"offset": offset, "disk": 0, "comment": b""} | entry.central
    own = (len(v["comment"]), v["disk"], 0, 0, v["offset"])
    fixed = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, *_common(v), *own)
    return b"".join((fixed, v["name"], v["extra"], v["comment"]))


def archive(
    *entries: Entry,
    prefix: bytes = b"",
    gap: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, Any] | None = None,
    comment: bytes = b"",
    after: bytes = b"",
    central: bytes | None = None,
) -> bytes:
    """An archive whose end records can be wrong in every field."""
    body = bytearray(prefix)
    directory = b""
    for entry in entries:
        offset = len(body)
        if not entry.alone:
            body += local_header(entry) + entry.payload() + (entry.descriptor or b"")
        directory += central_header(entry, offset)
    body += gap
    directory = directory if central is None else central
    start = len(body)
    body += directory
    v = {
        "disk": 0,
        "first": 0,
        "here": len(entries),
        "count": len(entries),
        "size": len(directory),
        "offset": start,
        "comment": len(comment),
    } | (end or {})
    if end64 is not None:
        w: dict[str, Any] = {
            "at": len(body),
            "size": 44,
            "data": b"",
            "signature": b"PK\6\6",
            "disks": 1,
            "disk": 0,
            "first": 0,
            "here": len(entries),
            "count": len(entries),
            "bytes": len(directory),
            "offset": start,
        }
        w = w | end64
        body += struct.pack("<4sQ2H2I", w["signature"], w["size"], 45, 45, w["disk"], w["first"])
        body += struct.pack("<4Q", w["here"], w["count"], w["bytes"], w["offset"]) + w["data"]
        body += struct.pack("<4sIQI", b"PK\6\7", 0, w["at"], w["disks"])
    body += struct.pack(
        "<4s4H2IH",
        b"PK\5\6",
        v["disk"],
        v["first"],
        v["here"] & 0xFFFF,
        v["count"] & 0xFFFF,
        v["size"],
        v["offset"],
        v["comment"],
    )
    return bytes(body + comment + after)


A, B = Entry(), Entry(b"b.npy", array([4.0]))


PACKED = Entry(method=8)


DESCRIBED = {"crc": 0, "packed": 0, "size": 0}


def descriptor(entry: Entry, **fields: int) -> bytes:
    v = entry.values() | fields
    return struct.pack("<4s3I", b"PK\7\x08", v["crc"], v["packed"], v["size"])


def described(entry: Entry, **fields: int) -> Entry:
    """As PyTorch writes: flags 0x0808, zeros in the local header, numbers behind the data."""
    return replace(entry, flags=0x0808, local=DESCRIBED, descriptor=descriptor(entry, **fields))


def overlapping(count: int, nbytes: int) -> bytes:
    """Many entries that share one deflated kernel (D. Fifield, "A better zip bomb", 2019)."""
    kernel = bytes(nbytes)
    sizes = {"crc": zlib.crc32(kernel), "size": nbytes}
    first = Entry(b"0.npy", b"", packed=deflate(kernel), method=8, local=sizes, central=sizes)
    rest = [
        replace(first, name=b"%d.npy" % n, alone=True, central=sizes | {"offset": 0})
        for n in range(1, count)
    ]
    return archive(first, *rest)
