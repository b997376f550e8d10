"""A deflated archive entry as a stream: bounded memory, exact length, checksum on the way.

Deflate is RFC 1951, as ZIP's method 8 stores it (without the header of zlib).
"""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import Any

from zlib_ng import zlib_ng

from anamnesis.errors import FormatError
from anamnesis.limits import KiB
from anamnesis.readers.base import Member
from anamnesis.readers.source import SourceFile

_CHUNK_BYTES = 256 * KiB  # inflated at a time
_PACKED_BYTES = 64 * KiB  # read at a time


SPOOL_BYTES = 256 * KiB  # what an inflater keeps; larger entries that are reread are spooled


class Inflater:
    """Inflated bytes of an entry from any offset on; made for going forwards.

    One chunk is kept, so that small reads are cheap. Going back further inflates from the start.
    Reaching the declared size checks that the stream ends there, with the entry's last byte.
    """

    def __init__(self, member: Member, file: SourceFile, chunk_bytes: int = _CHUNK_BYTES) -> None:
        """Begin at the start of the entry; nothing is read yet."""
        self._member, self._file = member, file
        self._chunk_bytes = chunk_bytes
        self.nbytes = member.nbytes
        self._crc = self._checked = 0
        self._restart()

    @property
    def inflated(self) -> tuple[int, int]:
        """How many bytes from the start were seen, and their CRC-32."""
        return self._checked, self._crc

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill `buffer` with the inflated bytes from `offset` on.

        Raises FormatError for a broken stream, or one of another length than declared.
        """
        view = memoryview(buffer).cast("B")
        if offset < self._start:
            self._restart()
        done = 0
        while done < len(view):
            begin = offset + done - self._start
            if begin >= len(self._chunk):
                self._advance()
                continue
            part = memoryview(self._chunk)[begin : begin + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)

    def drain(self) -> int:
        """Inflate what is left, and check the end; the CRC-32 of all bytes."""
        while self._start + len(self._chunk) < self._member.nbytes:
            self._advance()
        if not self._member.nbytes:
            self._end()
        return self._crc

    def spool(self) -> Spool:
        """The whole entry in a temporary file."""
        return Spool(self, self.nbytes)

    def _restart(self) -> None:
        self._stream = zlib_ng.decompressobj(-zlib_ng.MAX_WBITS)
        self._packed = 0  # bytes of the entry that were read
        self._input = b""
        self._chunk, self._start = b"", 0

    def _advance(self) -> None:
        """The next chunk; there is one before the declared size is reached."""
        left = self._member.nbytes - self._start - len(self._chunk)
        chunk = self._inflate(min(left, self._chunk_bytes)) if left else b""
        if not chunk:
            raise self._wrong(f"inflates to fewer than the {self._member.nbytes:,} bytes declared")
        self._start += len(self._chunk)
        self._chunk = chunk
        end = self._start + len(chunk)
        if end > self._checked:
            self._crc = zlib_ng.crc32(memoryview(chunk)[self._checked - self._start :], self._crc)
            self._checked = end
        if end == self._member.nbytes:
            self._end()

    def _inflate(self, most: int) -> bytes:
        """Up to `most` bytes, at least one unless the stream or the entry is at its end."""
        member = self._member
        while not self._stream.eof:
            if not self._input:
                size = min(_PACKED_BYTES, member.packed_bytes - self._packed)
                self._input = self._file.read(member.offset + self._packed, size)
                self._packed += size
            last = not self._input
            try:
                data: bytes = self._stream.decompress(self._input, most)
            except zlib_ng.error as error:
                raise self._wrong(f"broken deflate stream ({error})") from None
            self._input = self._stream.unconsumed_tail
            if data or last:
                return data
        return b""

    def _end(self) -> None:
        if self._inflate(1):
            raise self._wrong(f"inflates to more than the {self._member.nbytes:,} bytes declared")
        if not self._stream.eof:
            raise self._wrong("its deflate stream has no end")
        if self._stream.unused_data or self._packed != self._member.packed_bytes:
            raise self._wrong("bytes after the end of its deflate stream")

    def _wrong(self, what: str) -> FormatError:
        return FormatError(f"{self._member.file.path}: member {self._member.name!r:.200}: {what}")


class Spool:
    """Inflated bytes in a temporary file without a name, for reads in any order."""

    def __init__(self, inflater: Inflater, nbytes: int) -> None:
        """Inflate everything; the folder is `tempfile.gettempdir()`."""
        with tempfile.TemporaryFile(buffering=0) as file:
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)
        chunk = bytearray(min(_CHUNK_BYTES, nbytes))
        for start in range(0, nbytes, _CHUNK_BYTES):
            view = memoryview(chunk)[: nbytes - start]
            inflater.read_into(start, view)
            while view:
                view = view[os.write(self._fd, view) :]

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill `buffer` with the bytes from `offset` on."""
        view = memoryview(buffer).cast("B")
        while view:
            got = os.preadv(self._fd, [view], offset)
            if not got:
                raise OSError(f"a temporary file ended at byte {offset:,}")
            view, offset = view[got:], offset + got
