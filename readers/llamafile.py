"""llamafiles: a program that is a ZIP archive as well, with a GGUF file stored in it.

A program of Cosmopolitan Libc (https://github.com/mozilla-ai/llamafile) begins with `MZqFpD=`; its
archive stands at its end, members in any order and with gaps between them, as `zipalign` puts the
weights on a page of memory. So what `zip.py` asks of archives does not hold: here the directory
alone says where members are, and the one that is read must have the local header that belongs to
it. Its bytes are a GGUF file, whose offsets count from its own first byte. Programs are never run.
"""

from __future__ import annotations

import struct
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.base import FileId
from anamnesis.readers.closing import Closing
from anamnesis.readers.source import SourceFile, open_source
from anamnesis.readers.zip_directory import DEFLATED, Entry, read_directory

MAGIC = b"MZqFpD="
_LOCAL = struct.Struct("<4s5H3I2H")
_VISION = "mmproj"  # in the names of projectors, which are models of their own


class Inside(Closing):
    """Part of an open file as a file of its own; positions count from byte `base`."""

    def __init__(self, file: SourceFile, base: int, nbytes: int) -> None:
        self._file, self.base, self.size = file, base, nbytes

    @property
    def path(self) -> str:
        return self._file.path

    @property
    def id(self) -> FileId:
        return self._file.id

    def read_into(self, offset: int, buffer: Any) -> None:
        """As `SourceFile`'s; who asks has held the range against `size`."""
        self._file.read_into(self.base + offset, buffer)

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._file.read(self.base + offset, nbytes)

    def check_unchanged(self, expected: FileId | None = None) -> None:
        self._file.check_unchanged(expected)

    def close(self) -> None:
        self._file.close()


def open_inside(path: str, limits: Limits) -> Inside:
    """A GGUF file, or the one in a llamafile, opened.

    Raises FormatError for archives that do not fit together, UnsupportedError for several models,
    compressed ones, or a program without one.
    """
    file = open_source(path)
    try:
        if file.size < len(MAGIC) or file.read(0, len(MAGIC)) != MAGIC:
            return Inside(file, 0, file.size)
        entry = _model(file, limits)
        return Inside(file, _data_of(file, entry), entry.nbytes)
    except BaseException:
        file.close()
        raise


def _model(file: SourceFile, limits: Limits) -> Entry:
    entries = [e for e in read_directory(file, limits).entries if e.name.lower().endswith(".gguf")]
    models = [entry for entry in entries if _VISION not in entry.name.lower()] or entries
    if len(models) != 1:
        names = ", ".join(repr(entry.name)[:80] for entry in models[:8]) or "none"
        raise UnsupportedError(
            f"{file.path}: is a llamafile with {len(models)} GGUF files ({names}); one is read: "
            "take the one you want out of it with unzip"
        )
    if models[0].method == DEFLATED:
        raise UnsupportedError(
            f"{file.path}: member {models[0].name!r:.200}: is compressed; take it out with unzip"
        )
    return models[0]


def _data_of(file: SourceFile, entry: Entry) -> int:
    """Where a member's data begins, by its local header."""
    where = f"{file.path}: member {entry.name!r:.200}: local header"
    if entry.offset + _LOCAL.size > file.size:
        raise FormatError(f"{where}: offset {entry.offset:,} is past the end of the file")
    fields = _LOCAL.unpack(file.read(entry.offset, _LOCAL.size))
    signature, method, name_bytes, extra_bytes = fields[0], fields[3], fields[9], fields[10]
    name_at = entry.offset + _LOCAL.size
    start: int = name_at + name_bytes + extra_bytes
    if signature != b"PK\3\4" or method != entry.method:
        raise FormatError(f"{where}: signature {signature!r}, method {method}")
    if start + entry.nbytes > file.size:
        raise FormatError(
            f"{where}: {entry.nbytes:,} bytes from byte {start:,} pass the file's end"
        )
    if file.read(name_at, name_bytes) != entry.raw_name:
        raise FormatError(f"{where}: another name than the directory's")
    return start
