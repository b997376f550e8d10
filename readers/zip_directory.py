"""ZIP's end records and central directory: what an archive says that it holds.

Layout: PKWARE's APPNOTE.TXT 6.3.10 (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT),
sections 4.3.12 (central directory), 4.3.14 to 4.3.16 (end records), 4.5.3 (ZIP64 extra field):

    central header   "PK\\1\\2"  46 bytes, then name, extra fields and comment
    ZIP64 end        "PK\\6\\6"  56 bytes, counts and offsets in 64 bits; only with a locator
    ZIP64 locator    "PK\\6\\7"  20 bytes, says where the ZIP64 end is
    end              "PK\\5\\6"  22 bytes, then a comment up to the end of the file

Two programs that read an archive differently are a way past whoever looked at it first, so
nothing here is searched for or guessed: records lie where they belong, side by side, and what
is said twice is said the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import ZIP_ENTRIES, Limits, MiB
from anamnesis.readers.source import SourceFile

NAME_BYTES = 4_096

STORED, DEFLATED = 0, 8
DESCRIBED = 1 << 3  # flag: sizes and CRC-32 follow the data
_UTF8 = 1 << 11
_KNOWN_FLAGS = DESCRIBED | _UTF8 | 0b110  # the two between say how hard deflate tried
_UNSUPPORTED_FLAGS = {
    1 << 0: "is encrypted",
    1 << 5: "is a patch of another file",
    1 << 6: "is encrypted",
    1 << 13: "has masked headers",
}
_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "xz",
    98: "PPMd",
    99: "AES encryption",
}
ZIP64, _UNICODE_PATH = 0x0001, 0x7075  # extra fields
MASK16, MASK32 = 0xFFFF, 0xFFFFFFFF  # "look into the ZIP64 field"

_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_EXTRA = struct.Struct("<2H")
_WINDOW_BYTES = MiB


class Entry(NamedTuple):
    """What the directory says of one member."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc32: int
    packed_bytes: int
    nbytes: int
    offset: int  # of the local header


class Directory(NamedTuple):
    """The entries in the directory's order; it begins at byte `start`, where members end."""

    entries: list[Entry]
    start: int


class Window:
    """Part of a file in memory, moved forwards as it is read."""

    def __init__(self, file: SourceFile, stop: int, chunk_bytes: int) -> None:
        self._file, self._stop, self._chunk_bytes = file, stop, chunk_bytes
        self._data, self._start = b"", 0

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` from `offset` on; the caller has held them against `stop`."""
        begin = offset - self._start
        if begin < 0 or begin + nbytes > len(self._data):
            size = max(nbytes, min(self._chunk_bytes, self._stop - offset))
            self._data, self._start, begin = self._file.read(offset, size), offset, 0
        return self._data[begin : begin + nbytes]


def read_directory(file: SourceFile, limits: Limits) -> Directory:
    """Parse the end of an archive and its directory; members are not looked at.

    Raises FormatError, UnsupportedError (encryption, other methods, several disks) or LimitError.
    """
    count, nbytes, start = _read_end(file)
    path = file.path
    if count * _CENTRAL.size > nbytes:
        raise FormatError(
            f"{path}: end of central directory: {count:,} entries do not fit in {nbytes:,} bytes"
        )
    limits.items(count, f"{path}: end of central directory: entries", ZIP_ENTRIES)
    entries: list[Entry] = []
    names: set[str] = set()
    for entry in _entries(file, start, start + nbytes, count, limits):
        if entry.name in names:
            raise FormatError(f"{path}: member {entry.name!r:.200} is in the archive twice")
        names.add(entry.name)
        entries.append(entry)
    return Directory(entries, start)


def extra_fields(extra: bytes) -> dict[int, bytes]:
    """Extra fields by number; FormatError unless they fill their room exactly, each once."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if at + 4 > len(extra):
            raise FormatError(f"extra field: {len(extra) - at} stray bytes")
        number, nbytes = _EXTRA.unpack_from(extra, at)
        at += 4
        if at + nbytes > len(extra):
            raise FormatError(f"extra field {number:#06x}: ends outside of the header")
        if number in fields:
            raise FormatError(f"extra field {number:#06x}: is given twice")
        fields[number] = extra[at : at + nbytes]
        at += nbytes
    return fields


def check_unicode_path(fields: dict[int, bytes], name: str) -> None:
    """Info-ZIP's second name (APPNOTE 4.6.9) may only repeat the first."""
    field = fields.get(_UNICODE_PATH)
    if field is not None and field[5:] != name.encode():
        raise FormatError(f"Unicode path field: another name, {field[5:]!r:.200}")


def _read_end(file: SourceFile) -> tuple[int, int, int]:
    """Entries, bytes and start of the directory, which must end where the end records begin."""
    path, size = file.path, file.size
    tail = file.read(max(0, size - _END.size - MASK16), min(size, _END.size + MASK16))
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    if at < 0:
        raise FormatError(f"{path}: no end of central directory: cut short, or no ZIP archive")
    end = size - len(tail) + at
    where = f"{path}: end of central directory"
    _, disk, first_disk, here, count, nbytes, start, comment = _END.unpack_from(tail, at)
    if end + _END.size + comment != size:
        raise FormatError(
            f"{where}: comment length: {comment:,}, but {size - end - _END.size:,} bytes follow"
        )
    locator = file.read(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        end -= _LOCATOR.size + _END64.size
        wide = _read_end64(file, end, locator)
        narrow = (disk, first_disk, here, count, nbytes, start)
        for name, small, large, mask in zip(_END_FIELDS, narrow, wide, _END_MASKS, strict=True):
            if small not in (mask, large):
                raise FormatError(f"{where}: {name}: {small:,}, but {large:,} in the ZIP64 record")
        disk, first_disk, here, count, nbytes, start = wide
    if disk or first_disk:
        raise UnsupportedError(f"{where}: disk {disk} of an archive over several is not read")
    if here != count:
        raise FormatError(f"{where}: {here:,} entries on this disk, {count:,} in all")
    if start + nbytes != end:
        raise FormatError(
            f"{where}: the directory of {nbytes:,} bytes from byte {start:,} does not end at "
            f"{end:,}, where the end records begin"
        )
    return count, nbytes, start


_END_FIELDS = ("disk", "first disk", "entries on this disk", "entries", "directory size", "offset")
_END_MASKS = (MASK16, MASK16, MASK16, MASK16, MASK32, MASK32)


def _read_end64(file: SourceFile, at: int, locator: bytes) -> tuple[int, int, int, int, int, int]:
    where = f"{file.path}: ZIP64 end of central directory"
    _, disk, offset, disks = _LOCATOR.unpack(locator)
    if disk or disks > 1:
        raise UnsupportedError(f"{where}: locator: an archive over {disks:,} disks is not read")
    if offset != at or at < 0:
        raise FormatError(f"{where}: locator: points at byte {offset:,}, the record is at {at:,}")
    signature, size, _, _, *rest = _END64.unpack(file.read(at, _END64.size))
    if signature != b"PK\6\6":
        raise FormatError(f"{where}: signature: {signature!r}")
    if size != _END64.size - 12:
        raise FormatError(f"{where}: size: {size:,}, not {_END64.size - 12}")
    return tuple(rest)


def _entries(
    file: SourceFile, start: int, stop: int, count: int, limits: Limits
) -> Iterator[Entry]:
    window = Window(file, stop, _WINDOW_BYTES)
    at = start
    for number in range(count):
        where = f"{file.path}: central directory: entry {number:,} of {count:,}"
        if at + _CENTRAL.size > stop:
            raise FormatError(f"{where}: the directory ends before it")
        fields = _CENTRAL.unpack(window.read(at, _CENTRAL.size))
        signature, _, _, flags, method, _, _, crc32, packed, nbytes, *rest = fields
        name_bytes, extra_bytes, comment_bytes, disk, _, _, offset = rest
        at += _CENTRAL.size
        if signature != b"PK\1\2":
            raise FormatError(f"{where}: signature: {signature!r}")
        if at + name_bytes + extra_bytes + comment_bytes > stop:
            raise FormatError(f"{where}: its name or fields end outside of the directory")
        raw = window.read(at, name_bytes + extra_bytes)
        at += name_bytes + extra_bytes + comment_bytes
        name = _name(where, raw[:name_bytes], flags)
        try:
            if extra_bytes or MASK32 in (packed, nbytes, offset) or disk == MASK16:
                extra = extra_fields(raw[name_bytes:])
                packed, nbytes, offset, disk = _wide(extra, packed, nbytes, offset, disk)
                check_unicode_path(extra, name)
            _check_readable(flags, method, disk, packed, nbytes)
        except (FormatError, UnsupportedError) as error:
            raise type(error)(f"{file.path}: member {name!r:.200}: {error}") from None
        if method == DEFLATED:
            what = f"{file.path}: member {name!r:.200}: inflates to {nbytes:,} bytes"
            limits.expansion(nbytes, packed, what)
        yield Entry(name, raw[:name_bytes], flags, method, crc32, packed, nbytes, offset)
    if at != stop:
        raise FormatError(
            f"{file.path}: central directory: {stop - at:,} bytes after its {count:,} entries"
        )


def _name(where: str, raw: bytes, flags: int) -> str:
    if not raw:
        raise FormatError(f"{where}: name: empty")
    if len(raw) > NAME_BYTES:
        raise FormatError(f"{where}: name: {len(raw):,} bytes, more than {NAME_BYTES:,}")
    if 0 in raw:
        raise FormatError(f"{where}: name: {raw!r:.200} has a NUL byte")
    if raw.isascii():
        return raw.decode("ascii")
    if not flags & _UTF8:
        return raw.decode("cp437")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{where}: name: {raw!r:.200} is not UTF-8, as its flag says") from None


def _wide(
    fields: dict[int, bytes], packed: int, nbytes: int, offset: int, disk: int
) -> tuple[int, int, int, int]:
    """The numbers that are masked, out of the ZIP64 field, which holds those and no other."""
    masked = [nbytes == MASK32, packed == MASK32, offset == MASK32]
    need = 8 * sum(masked) + 4 * (disk == MASK16)
    field = fields.get(ZIP64, b"")
    if len(field) != need or (ZIP64 in fields and not need):
        raise FormatError(
            f"ZIP64 field: {len(field)} bytes in the directory, where {need} are needed"
        )
    numbers = iter(struct.unpack_from(f"<{sum(masked)}Q", field))
    nbytes, packed, offset = (
        next(numbers) if wide else number
        for wide, number in zip(masked, (nbytes, packed, offset), strict=True)
    )
    if disk == MASK16:
        disk = int.from_bytes(field[-4:], "little")
    return packed, nbytes, offset, disk


def _check_readable(flags: int, method: int, disk: int, packed: int, nbytes: int) -> None:
    if disk:
        raise UnsupportedError(f"disk {disk} of an archive over several is not read")
    if flags & ~_KNOWN_FLAGS:
        for flag, what in _UNSUPPORTED_FLAGS.items():
            if flags & flag:
                raise UnsupportedError(f"{what}, which is not implemented")
        raise FormatError(f"flags: {flags:#06x} has bits without a meaning")
    if method == STORED:
        if packed != nbytes:
            raise FormatError(f"is stored, but has two sizes: {packed:,} and {nbytes:,} bytes")
    elif method != DEFLATED:
        raise UnsupportedError(
            f"compression method {method} ({_METHODS.get(method, 'unknown')}) is not implemented; "
            "stored and deflated members are read"
        )
