"""ZIP archives as members that can be changed and written again, CRCs, sizes and offsets right.

Layout: APPNOTE.TXT 4.3.7, 4.3.9, 4.3.12, 4.3.16 and 4.5.3: a ZIP64 field in a local header is made
right too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

_LOCAL = ("signature", "version", "flags", "method", "time", "date", "crc", "packed", "size")
_LOCAL += ("name_bytes", "extra_bytes")
_CENTRAL = ("signature", "made", *_LOCAL[1:], "comment_bytes", "disk", "inner", "outer", "offset")
_LOCAL_FORM, _CENTRAL_FORM, _END_FORM = "<4s5H3I2H", "<4s6H3I5H2I", "<4s4H2IH"
_WIDTH = {"crc": 32, "packed": 32, "size": 32, "outer": 32, "offset": 32}
_DESCRIBED = 1 << 3
ZIP64 = struct.pack("<2H", 1, 16)
_MASK = (1 << 32) - 1


@dataclass
class Member:
    """A member with its data as stored, and what its two headers add."""

    name: bytes
    packed: bytes
    method: int = 0
    flags: int = 0
    crc: int = 0
    size: int = 0
    local_extra: bytes = b""
    central_extra: bytes = b""

    def plain(self) -> bytes:
        try:
            return zlib.decompress(self.packed, -15) if self.method == 8 else self.packed
        except zlib.error as error:
            raise ValueError from error

    def fill(self, plain: bytes) -> None:
        """Set the data, and sizes and CRC with it."""
        self.packed, self.crc, self.size = plain, zlib.crc32(plain), len(plain)
        if self.method == 8:
            deflate = zlib.compressobj(wbits=-15)
            self.packed = deflate.compress(plain) + deflate.flush()

    def flip(self, chance: Random) -> None:
        """Deflate what was stored, the other way round, or move the sizes behind the data."""
        plain = self.plain()
        if chance.random() < 0.5:
            self.method = 8 - self.method if self.method in (0, 8) else 0
        else:
            self.flags ^= _DESCRIBED
        self.fill(plain)

    def copy(self, **changes: Any) -> Member:
        return replace(self, **changes)


def read_zip(data: bytes) -> list[Member]:
    """The members, in the order of the directory; raises struct.error or ValueError."""
    end = data.rindex(b"PK\5\6")
    _, _, _, _, count, _, at, _ = struct.unpack_from(_END_FORM, data, end)
    members = []
    for _ in range(min(count, 64)):
        row = dict(zip(_CENTRAL, struct.unpack_from(_CENTRAL_FORM, data, at), strict=True))
        at += struct.calcsize(_CENTRAL_FORM)
        name = data[at : at + row["name_bytes"]]
        at += row["name_bytes"]
        central_extra = data[at : at + row["extra_bytes"]]
        at += row["extra_bytes"] + row["comment_bytes"]
        local = row["offset"]
        _, *_, name_bytes, extra_bytes = struct.unpack_from(_LOCAL_FORM, data, local)
        start = local + struct.calcsize(_LOCAL_FORM) + name_bytes
        local_extra = data[start : start + extra_bytes]
        start += extra_bytes
        packed = data[start : start + row["packed"]]
        told = (row["method"], row["flags"], row["crc"], row["size"])
        members.append(Member(name, packed, *told, local_extra, central_extra))
    if not members:
        raise ValueError
    return members


def write_zip(
    members: Sequence[Member], dents: Mapping[tuple[int, str, str], int] | None = None
) -> bytes:
    """The archive; `dents` are wrong values by member, header (local, central) and field."""
    dents = dents or {}
    body, directory = b"", b""
    for number, member in enumerate(members):
        row = {
            "signature": b"PK\3\4",
            "version": 20,
            "flags": member.flags,
            "method": member.method,
            "time": 0,
            "date": 33,
            "crc": member.crc,
            "packed": len(member.packed),
            "size": member.size,
            "name_bytes": len(member.name),
            "extra_bytes": len(member.local_extra),
            "made": 20,
            "comment_bytes": 0,
            "disk": 0,
            "inner": 0,
            "outer": 0,
            "offset": len(body),
        }
        local, extra = row, member.local_extra
        if extra.startswith(ZIP64):
            local = row | {"packed": _MASK, "size": _MASK}
            extra = ZIP64 + struct.pack("<2Q", member.size, len(member.packed)) + extra[20:]
            local["extra_bytes"] = len(extra)
        body += _header(_LOCAL_FORM, _LOCAL, local, number, "local", dents)
        body += member.name + extra + member.packed
        if member.flags & _DESCRIBED:
            body += struct.pack("<4s3I", b"PK\7\x08", member.crc, len(member.packed), member.size)
        row |= {"signature": b"PK\1\2", "extra_bytes": len(member.central_extra)}
        directory += _header(_CENTRAL_FORM, _CENTRAL, row, number, "central", dents)
        directory += member.name + member.central_extra
    count = len(members)
    end = struct.pack(_END_FORM, b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def _header(
    form: str,
    fields: Sequence[str],
    row: Mapping[str, Any],
    number: int,
    place: str,
    dents: Mapping[tuple[int, str, str], int],
) -> bytes:
    values = []
    for field in fields:
        value = dents.get((number, place, field), row[field])
        values.append(value if isinstance(value, bytes) else value % (1 << _WIDTH.get(field, 16)))
    return struct.pack(form, *values)
