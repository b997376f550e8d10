"""The first format of llama.cpp's importance matrices (`imatrix.dat`), which has no magic number.

Layout, little-endian (tools/imatrix/imatrix.cpp, `save_imatrix_legacy`; read by
common/imatrix-loader.cpp, `common_imatrix_load_legacy`):

    number of entries i32
    entry    length i32, name; calls i32; number of sums i32; sums f32
    and, in newer files, number of chunks i32, length i32 and name of the text that was run

Sums divided by the calls are means; without calls they count as they are.
"""

from __future__ import annotations

import struct

from anamnesis.errors import FormatError
from anamnesis.limits import GGUF_STRING_BYTES, NAME_BYTES, Limits
from anamnesis.readers.imatrix_entry import Entry
from anamnesis.readers.source import SourceFile

_I32, _TWO = struct.Struct("<i"), struct.Struct("<ii")
_LEAST_ENTRY = 4 + 1 + 8 + 4


class _Reader:
    """Fields one after the other; each is held against the bytes that are left."""

    def __init__(self, file: SourceFile) -> None:
        self.file, self.at = file, 0

    def take(self, nbytes: int, what: str) -> bytes:
        self.hold(nbytes, what)
        found = self.file.read(self.at, nbytes)
        self.at += nbytes
        return found

    def hold(self, nbytes: int, what: str) -> None:
        left = self.file.size - self.at
        if nbytes > left:
            raise self.error(f"{what}: takes {nbytes:,} bytes, {left:,} are left")

    def number(self, what: str, least: int, most: int) -> int:
        at = self.at
        (found,) = _I32.unpack(self.take(4, what))
        if not least <= found <= most:
            raise self.error(f"{what}: found {found:,}; allowed: {least:,} to {most:,}", at)
        return int(found)

    def text(self, what: str, most: int, least: int = 1) -> str:
        length, at = self.number(f"{what}: length", least, most), self.at
        data = self.take(length, what)
        try:
            found = data.decode()
        except UnicodeDecodeError:
            raise self.error(f"{what}: found {data!r:.200}; allowed: UTF-8", at) from None
        if "\0" in found:
            raise self.error(f"{what}: found {found!r:.200}; allowed: text without NUL", at)
        return found

    def error(self, what: str, at: int | None = None) -> FormatError:
        at = self.at if at is None else at
        return FormatError(f"{self.file.path}: importance matrix: byte {at:,}: {what}")


def read_legacy(file: SourceFile, limits: Limits) -> tuple[dict[str, Entry], tuple[str, ...], int]:
    """Entries by name, names of texts, and the number of chunks.

    Raises FormatError, LimitError.
    """
    reader = _Reader(file)
    most = max(0, (file.size - 4) // _LEAST_ENTRY)
    if not most:
        raise reader.error(f"{file.size:,} bytes; neither a GGUF nor an imatrix.dat is so short")
    count = reader.number("number of entries", 1, most)
    limits.tensors(count, f"{file.path}: entries of the importance matrix")
    entries: dict[str, Entry] = {}
    for number in range(count):
        what = f"entry {number:,}"
        name, at = reader.text(f"{what}: name", NAME_BYTES), reader.at
        calls, values = _TWO.unpack(reader.take(8, what))
        if values < 1:
            raise reader.error(f"{what}: number of sums: found {values:,}; allowed: 1 or more", at)
        if name in entries:
            raise reader.error(f"{what}: {name!r:.200} is there twice", at)
        reader.hold(4 * values, f"{what}: {values:,} sums")
        entries[name] = Entry(file.id, reader.at, values, (float(calls) if calls > 0 else 1.0,))
        reader.at += 4 * values
    if reader.at == file.size:
        return entries, (), 0
    chunks = reader.number("number of chunks", -(1 << 31), (1 << 31) - 1)
    dataset = reader.text("text that was run", GGUF_STRING_BYTES, 0)
    if reader.at != file.size:
        raise reader.error(f"{file.size - reader.at:,} bytes behind the last field")
    return entries, (dataset,) if dataset else (), max(0, chunks)
