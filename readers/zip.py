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
from operator import attrgetter

from zlib_ng.zlib_ng import crc32

from anamnesis.errors import FormatError, IntegrityError
from anamnesis.limits import KiB, Limits, MiB
from anamnesis.readers.base import Member
from anamnesis.readers.inflate import Inflater
from anamnesis.readers.source import SourceFile
from anamnesis.readers.zip_directory import (
    DEFLATED,
    DESCRIBED,
    MASK32,
    ZIP64,
    Entry,
    Window,
    check_unicode_path,
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
    file_id = file.id
    members: list[Member] = []
    at, before = 0, ""
    for entry in sorted(directory.entries, key=attrgetter("offset")):
        name, offset, deflated = entry.name, entry.offset, entry.method == DEFLATED
        try:
            if offset != at:
                raise _misplaced(offset, at, before)
            data, at = _place(entry, window, directory.start)
        except FormatError as error:
            raise FormatError(f"{file.path}: member {name!r:.200}: {error}") from None
        members.append(
            Member(name, file_id, data, entry.packed_bytes, entry.nbytes, entry.crc32, deflated)
        )
        before = name
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


def checksum(file: SourceFile, member: Member) -> int:
    """The CRC-32 of a member's data, read to its end; FormatError for a broken deflate stream."""
    if member.deflated:
        return Inflater(member, file).drain()
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


def _misplaced(offset: int, at: int, before: str) -> FormatError:
    where = f"local header: offset {offset:,}"
    if offset < at:
        return FormatError(f"{where} overlaps member {before!r:.200}, which ends at {at:,}")
    behind = f"member {before!r:.200}, which ends at {at:,}" if before else "the start of the file"
    return FormatError(f"{where} leaves a gap behind {behind}")


def _place(entry: Entry, window: Window, stop: int) -> tuple[int, int]:
    """Where a member's data begins, and where the member ends."""
    at = entry.offset + _LOCAL.size
    if at > stop:
        raise FormatError(f"local header: offset {entry.offset:,} is past the end of the members")
    fields = _LOCAL.unpack(window.read(entry.offset, _LOCAL.size))
    signature, _, flags, method, _, _, crc32, packed, nbytes, name_bytes, extra_bytes = fields
    if signature != b"PK\3\4":
        raise FormatError(f"local header: signature: {signature!r}")
    data = at + name_bytes + extra_bytes
    if data > stop:
        raise FormatError("local header: its name or fields go past the end of the members")
    raw = window.read(at, name_bytes + extra_bytes)
    _compare("local header: name", raw[:name_bytes], entry.raw_name)
    _compare("local header: flags", flags, entry.flags)
    _compare("local header: method", method, entry.method)
    wide: bytes | None = None
    if extra_bytes:
        extra = extra_fields(raw[name_bytes:])
        check_unicode_path(extra, entry.name)
        wide = extra.get(ZIP64)
    described = bool(flags & DESCRIBED)
    if wide is not None or MASK32 in (packed, nbytes):
        packed, nbytes = _wide_sizes(entry, packed, nbytes, wide, described)
    # With a descriptor, zeros stand for what was not known yet.
    if not described or (crc32, packed, nbytes) != (0, 0, 0):
        _compare_sizes("local header", entry, crc32, packed, nbytes)
    end = data + entry.packed_bytes
    if end > stop:
        raise FormatError(
            f"local header: {entry.packed_bytes:,} bytes of data from byte {data:,} go past the "
            f"end of the members at {stop:,}"
        )
    return data, _behind_descriptor(entry, window, end, stop, wide) if described else end


def _behind_descriptor(entry: Entry, window: Window, at: int, stop: int, wide: bytes | None) -> int:
    """Where the data descriptor from byte `at` on ends; with a ZIP64 field its sizes are wide."""
    form = _DESCRIPTOR if wide is None else _DESCRIPTOR64
    if at + form.size > stop:
        raise FormatError("data descriptor: goes past the end of the members")
    signature, *values = form.unpack(window.read(at, form.size))
    if signature != b"PK\7\x08":
        raise FormatError(f"data descriptor: signature: {signature!r}")
    _compare_sizes("data descriptor", entry, *values)
    return at + form.size


def _compare(what: str, found: object, central: object) -> None:
    if found != central:
        raise FormatError(f"{what}: {found!r:.200}, the directory has {central!r:.200}")


def _compare_sizes(where: str, entry: Entry, crc32: int, packed: int, nbytes: int) -> None:
    _compare(f"{where}: CRC-32", crc32, entry.crc32)
    _compare(f"{where}: packed size", packed, entry.packed_bytes)
    _compare(f"{where}: size", nbytes, entry.nbytes)


def _wide_sizes(
    entry: Entry, packed: int, nbytes: int, wide: bytes | None, described: bool
) -> tuple[int, int]:
    """The packed and unpacked size that a local header tells in its ZIP64 field.

    That holds both sizes when one of them is masked, and repeats them when Python up to 3.11.3 was
    told to have the field (`force_zip64`, as NumPy tells it). PyTorch's writer (miniz,
    `add_mem_ex`) leaves zeros instead, with the unpacked size in the field when it takes more than
    32 bits; behind, it repeats the offset of a header beyond 4 GiB.
    """
    if wide is None:
        raise FormatError("local header: ZIP64 field: missing, though a size is masked")
    numbers = [n for (n,) in struct.iter_unpack("<Q", wide)] if len(wide) % 8 == 0 else []
    if numbers == [nbytes, packed] and MASK32 not in (packed, nbytes):
        return packed, nbytes
    zeros = described and packed == nbytes == 0
    miniz = zeros and entry.nbytes >= MASK32
    both = 2 if miniz or MASK32 in (packed, nbytes) else 0
    offsets = [entry.offset] if entry.offset >= MASK32 else []
    if len(numbers) < max(both, 1) or numbers[both:] not in ([], offsets):
        raise FormatError(
            f"local header: ZIP64 field: {len(wide)} bytes, where the sizes take {8 * both}, or "
            "another offset than the directory's"
        )
    if not both:
        return packed, nbytes
    if miniz:
        _compare("local header: size", numbers[0], entry.nbytes)
        if numbers[1]:  # not known yet when it was written
            _compare("local header: packed size", numbers[1], entry.packed_bytes)
        return 0, 0
    for name, small, large in (("size", nbytes, numbers[0]), ("packed size", packed, numbers[1])):
        if small not in (MASK32, large):
            raise FormatError(f"local header: {name}: {small:,}, but {large:,} in the ZIP64 field")
    return numbers[1], numbers[0]
