"""ZIP archives, strictly: one way to read each, or none.

Layout: APPNOTE.TXT 4.3.7 (local header) and 4.3.9 (data descriptor); `zip_directory` has the rest.
A member is its local header, its data and, with flag bit 3, a descriptor behind them. Members
lie side by side from the first byte of the file to the directory: writers of NumPy and
PyTorch leave no byte between (PyTorch pads inside an extra field), so a gap, an overlap or bytes in
front are refused. Headers are held against the directory's; with a descriptor the header may
leave zeros, and the descriptor then has to agree. Names are data: nothing is ever extracted.
"""

from __future__ import annotations

import struct
import zlib
from operator import attrgetter

from anamnesis.errors import FormatError, IntegrityError
from anamnesis.limits import KiB, Limits, MiB
from anamnesis.readers.base import Member
from anamnesis.readers.inflate import Crc32, Inflater
from anamnesis.readers.source import SourceFile
from anamnesis.readers.zip_directory import (
    DEFLATED,
    DESCRIBED,
    MASK32,
    ZIP64,
    Entry,
    Window,
    extra_fields,
    read_directory,
)

_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4s3I"), struct.Struct("<4sI2Q")
_WINDOW_BYTES = 4 * KiB
_READ_BYTES = MiB


def read_members(file: SourceFile, limits: Limits) -> list[Member]:
    """The members of an archive in the order of their bytes; no data is read.

    Raises FormatError, UnsupportedError, LimitError (entries, expansion) or OSError.
    """
    directory = read_directory(file, limits)
    window = Window(file, directory.start, _WINDOW_BYTES)
    members: list[Member] = []
    at, before = 0, ""
    for entry in sorted(directory.entries, key=attrgetter("offset")):
        where = f"{file.path}: member {entry.name!r:.200}"
        if entry.offset != at:
            raise _misplaced(where, entry.offset, at, before)
        data, at = _place(where, entry, window, directory.start)
        members.append(
            Member(
                entry.name,
                file.id,
                data,
                entry.packed_bytes,
                entry.nbytes,
                entry.crc32,
                entry.method == DEFLATED,
            )
        )
        before = entry.name
    if at != directory.start:
        raise FormatError(
            f"{file.path}: central directory: offset {directory.start:,} leaves a gap behind the "
            f"last member, which ends at {at:,}"
        )
    return members


def read_start(file: SourceFile, member: Member, nbytes: int) -> bytes:
    """The first `nbytes` bytes of a member, or all there are; inflates no more than that."""
    nbytes = min(nbytes, member.nbytes)
    if not member.deflated or not nbytes:
        return file.read(member.offset, nbytes)
    start = bytearray(nbytes)
    Inflater(member, file, chunk_bytes=nbytes).read_into(0, start)
    return bytes(start)


def checksum(file: SourceFile, member: Member, crc32: Crc32 = zlib.crc32) -> int:
    """The CRC-32 of a member's data, read to its end; FormatError for a broken deflate stream."""
    if member.deflated:
        return Inflater(member, file, crc32).drain()
    value = 0
    buffer = bytearray(min(_READ_BYTES, member.nbytes))
    for start in range(0, member.nbytes, _READ_BYTES):
        view = memoryview(buffer)[: member.nbytes - start]
        file.read_into(member.offset + start, view)
        value = crc32(view, value)
    return value


def check_crc32(member: Member, found: int) -> None:
    """IntegrityError unless `found` is the CRC-32 that the archive tells."""
    if found != member.crc32:
        raise IntegrityError(
            f"{member.file.path}: member {member.name!r:.200}: CRC-32 {found:08x}, the archive "
            f"says {member.crc32:08x}: the data is damaged"
        )


def _misplaced(where: str, offset: int, at: int, before: str) -> FormatError:
    if offset < at:
        return FormatError(
            f"{where}: local header: offset {offset:,} overlaps member {before!r:.200}, which "
            f"ends at {at:,}"
        )
    behind = f"member {before!r:.200}, which ends at {at:,}" if before else "the start of the file"
    return FormatError(f"{where}: local header: offset {offset:,} leaves a gap behind {behind}")


def _place(where: str, entry: Entry, window: Window, stop: int) -> tuple[int, int]:
    """Where a member's data begins, and where the member ends."""
    where = f"{where}: local header"
    at = entry.offset + _LOCAL.size
    if at > stop:
        raise FormatError(f"{where}: offset {entry.offset:,} is past the end of the members")
    fields = _LOCAL.unpack(window.read(entry.offset, _LOCAL.size))
    signature, _, flags, method, _, _, crc32, packed, nbytes, name_bytes, extra_bytes = fields
    if signature != b"PK\3\4":
        raise FormatError(f"{where}: signature: {signature!r}")
    if at + name_bytes + extra_bytes > stop:
        raise FormatError(f"{where}: its name or fields go past the end of the members")
    raw = window.read(at, name_bytes + extra_bytes)
    data = at + name_bytes + extra_bytes
    wide: bytes | None = None
    if extra_bytes:
        wide = extra_fields(where, raw[name_bytes:]).get(ZIP64)
    described = bool(flags & DESCRIBED)
    told = {
        "name": (raw[:name_bytes], entry.raw_name),
        "flags": (flags, entry.flags),
        "method": (method, entry.method),
    }
    for name, (local, central) in told.items():
        if local != central:
            raise FormatError(
                f"{where}: {name}: {local!r:.200}, the directory has {central!r:.200}"
            )
    sizes = _sizes(where, entry, packed, nbytes, wide, described)
    _compare(where, entry, (crc32, *sizes), described)
    end = data + entry.packed_bytes
    if end > stop:
        raise FormatError(
            f"{where}: {entry.packed_bytes:,} bytes of data from byte {data:,} go past the end of "
            f"the members at {stop:,}"
        )
    if not described:
        return data, end
    form = _DESCRIPTOR if wide is None else _DESCRIPTOR64
    if end + form.size > stop:
        raise FormatError(f"{where}: its data descriptor goes past the end of the members")
    signature, *values = form.unpack(window.read(end, form.size))
    where = where.replace("local header", "data descriptor")
    if signature != b"PK\7\x08":
        raise FormatError(f"{where}: signature: {signature!r}")
    _compare(where, entry, tuple(values), False)
    return data, end + form.size


def _compare(where: str, entry: Entry, values: tuple[int, ...], may_be_zero: bool) -> None:
    expected = (entry.crc32, entry.packed_bytes, entry.nbytes)
    for name, found, central in zip(_COMPARED, values, expected, strict=True):
        if found != central and not (may_be_zero and found == 0):
            raise FormatError(f"{where}: {name}: {found:,}, the directory has {central:,}")


_COMPARED = ("CRC-32", "packed size", "size")


def _sizes(
    where: str, entry: Entry, packed: int, nbytes: int, wide: bytes | None, described: bool
) -> tuple[int, int]:
    """The packed and unpacked size that a local header tells, maybe in its ZIP64 field.

    That holds both sizes when one of them is masked. PyTorch's writer (miniz, `add_mem_ex`) leaves
    zeros instead, and puts them there when they need it; behind, it repeats the offset of a header
    beyond 4 GiB.
    """
    if wide is None:
        if MASK32 in (packed, nbytes):
            raise FormatError(f"{where}: ZIP64 field: missing, though a size is masked")
        return packed, nbytes
    numbers = [n for (n,) in struct.iter_unpack("<Q", wide)] if len(wide) % 8 == 0 else []
    zeros = described and packed == nbytes == 0 and entry.nbytes >= MASK32
    both = 2 if zeros or MASK32 in (packed, nbytes) else 0
    offsets = [entry.offset] if entry.offset >= MASK32 else []
    if not numbers or numbers[both:] not in ([], offsets):
        raise FormatError(
            f"{where}: ZIP64 field: {len(wide)} bytes, where the sizes take {8 * both}, or other "
            "offset than the directory's"
        )
    if not both:
        return packed, nbytes
    if len(numbers) < both:
        raise FormatError(f"{where}: ZIP64 field: {len(wide)} bytes, the sizes take {8 * both}")
    for name, small, large in zip(("size", "packed size"), (nbytes, packed), numbers, strict=False):
        if small not in (MASK32, large) and not zeros:
            raise FormatError(f"{where}: {name}: {small:,}, but {large:,} in the ZIP64 field")
    return numbers[1], numbers[0]
