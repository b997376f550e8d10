"""A position in a GGUF header, read in chunks that grow with it and stop with it.

Every length is held against the bytes that are left in the file before anything is read or
made for it; numbers stay Python ints, so no sum of them wraps.
"""

from __future__ import annotations

import struct

from anamnesis.errors import FormatError
from anamnesis.limits import GGUF_STRING_BYTES, NAME_BYTES, KiB, Limits, MiB
from anamnesis.readers.source import SourceFile

_CHUNK_BYTES, _MAX_CHUNK_BYTES = 64 * KiB, MiB
LITTLE, BIG = "<", ">"  # byte orders, as struct has them
_U32, _U64 = ({order: struct.Struct(order + code) for order in (LITTLE, BIG)} for code in "IQ")


class Cursor:
    """A position in the header, and the chunk of the file around it.

    `order` is that of the numbers from here on, `LITTLE` or `BIG`.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.order = LITTLE
        self.arrays = 0  # in arrays, counted by who reads them
        self._start = 0  # of the chunk, in the file
        self._chunk = b""
        self._pos = 0  # in the chunk; may lie behind its end after a skip
        self._next_bytes = _CHUNK_BYTES

    @property
    def at(self) -> int:
        return self._start + self._pos

    @property
    def left(self) -> int:
        return self.file.size - self.at

    def error(self, what: object, why: str) -> FormatError:
        return FormatError(f"{self.file.path}: {what}: {why} (byte {self.at:,})")

    def take(self, nbytes: int, what: object) -> bytes:
        begin = self._pos
        end = begin + nbytes
        if end > len(self._chunk):
            self._fill(nbytes, what)
            begin, end = 0, nbytes
        self._pos = end
        return self._chunk[begin:end]

    def skip(self, nbytes: int, what: object) -> None:
        if nbytes > self.left:
            raise self._short(nbytes, what)
        self._pos += nbytes

    def _fill(self, nbytes: int, what: object) -> None:
        """Make the chunk begin here and hold at least `nbytes`."""
        left = self.left
        if nbytes > left:
            raise self._short(nbytes, what)
        at = self.at
        self._chunk = self.file.read(at, min(max(nbytes, self._next_bytes), left))
        self._start, self._pos = at, 0
        self._next_bytes = min(2 * self._next_bytes, _MAX_CHUNK_BYTES)

    def _short(self, nbytes: int, what: object) -> FormatError:
        return self.error(what, f"takes {nbytes:,} bytes where {self.left:,} are left")

    def u32(self, what: object) -> int:
        value: int = _U32[self.order].unpack(self.take(4, what))[0]
        return value

    def u64(self, what: object) -> int:
        value: int = _U64[self.order].unpack(self.take(8, what))[0]
        return value

    def string(self, what: object, limits: Limits) -> str:
        """A value; bytes that are no UTF-8 become backslash escapes, as no weight hangs on them."""
        nbytes = self.u64(what)
        if nbytes > self.left:
            raise self._short(nbytes, what)
        limits.alloc(nbytes, f"{self.file.path}: {what}", GGUF_STRING_BYTES)
        return self.take(nbytes, what).decode(errors="backslashreplace")

    def name(self, what: object) -> str:
        """A key or a tensor name: 1 to 65,535 bytes of UTF-8 without NUL."""
        nbytes = self.u64(what)
        if not 1 <= nbytes <= NAME_BYTES:
            raise self.error(what, f"length {nbytes:,}; 1 to {NAME_BYTES:,} bytes are allowed")
        raw = self.take(nbytes, what)
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise self.error(what, f"{raw!r:.80} is not UTF-8") from None
        if "\0" in name:
            raise self.error(what, f"{name!r:.80} has a NUL in it")
        return name

    def skip_strings(self, count: int, what: object) -> None:
        """Step over strings by their lengths; past the chunk's end, check against the file's."""
        length_at = _U64[self.order].unpack_from
        while count:
            chunk, pos, last = self._chunk, self._pos, len(self._chunk) - 8
            while count and pos <= last:
                pos += 8 + length_at(chunk, pos)[0]
                count -= 1
            self.skip(pos - self._pos, what)
            if count:
                self._fill(8, what)
