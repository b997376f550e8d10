"""Files behind URLs, read in ranges; identity is the size and what their server calls the version.

`origins` has who reads the ranges of a URL. `FileId.mtime_ns` holds a digest of the version, so
that a task on another machine can open the same URL and compare. A file that was opened with the
identity of an earlier look is not asked for it again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from anamnesis import stopping
from anamnesis.errors import IntegrityError
from anamnesis.limits import KiB, MiB
from anamnesis.readers import hub
from anamnesis.readers.base import FileId
from anamnesis.readers.closing import Closing
from anamnesis.readers.http import changed
from anamnesis.readers.origins import origin_of

FIRST_BYTES = 256 * KiB  # of which the header of most shards is a part
_AHEAD_BYTES, MAX_AHEAD_BYTES = 64 * KiB, 4 * MiB


class RemoteFile(Closing):
    """A file behind a URL."""

    def __init__(
        self, url: str, first_bytes: int = FIRST_BYTES, expected: FileId | None = None
    ) -> None:
        """Open `url`, which is `expected` or anything; raises OSError and this package's errors.

        With `expected`, nothing is asked: every answer has to be of that version, or
        `check_unchanged` finds out.
        """
        self.path = url
        self._origin = origin_of(url)
        self._block: bytes | bytearray = b""
        self._block_at = 0
        self._lock = threading.Lock()
        self._ahead = first_bytes
        self._next = 0  # where a read that follows the one before would begin
        if expected is None:
            self.id, self._block = self._identity(first_bytes)
        else:
            self.id = expected
        if self._block:
            self._next, self._ahead = len(self._block), 2 * first_bytes

    @property
    def size(self) -> int:
        return self.id.size

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable buffer from `offset`; IntegrityError if the file ends before."""
        view = self._checked(offset, buffer)
        with self._lock:
            begin = offset - self._block_at
            done = 0
            if 0 <= begin < len(self._block):
                done = min(len(view), len(self._block) - begin)
                view[:done] = self._block[begin : begin + done]
            if done < len(view):
                self._fetch_block(offset + done, view[done:])

    def fetch_into(self, offset: int, buffer: Any) -> None:
        """The same with one request, which leaves what was read before as it is."""
        view = self._checked(offset, buffer)
        version = self._origin.read_into(offset, view, self.size)
        if version and self.id.mtime_ns and digest_of(version) != self.id.mtime_ns:
            raise changed(self.path)

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, for headers; the caller has checked the size."""
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self, expected: FileId | None = None) -> None:
        """Raise IntegrityError when the file is not the one that was opened at first.

        Where answers name the version, those that came were compared, and nothing is asked.
        """
        before, asked = expected or self.id, self._origin.now()
        now = self.id if asked is None else self._id_of(asked)
        if now != before:
            how = f"size {before.size:,} -> {now.size:,} bytes, or another version of the same size"
            raise changed(self.path, how)

    def close(self) -> None:
        """Let go of what was fetched; a second call does nothing."""
        self._block = b""

    def _checked(self, offset: int, buffer: Any) -> memoryview:
        stopping.check()
        view = memoryview(buffer).cast("B")
        if offset + len(view) > self.size:
            raise IntegrityError(
                f"{self.path}: {len(view):,} bytes from byte {offset:,} were expected; it has "
                f"{self.size:,} bytes"
            )
        return view

    def _identity(self, first_bytes: int) -> tuple[FileId, bytes]:
        place = hub.parse(self.path)
        if place is not None:
            (size, version), head = hub.tree(place).info(place.path), b""
        else:
            (size, version), head = self._origin.identify(first_bytes)
        return self._id_of((size, version)), head

    def _id_of(self, found: tuple[int, str]) -> FileId:
        return FileId(self.path, found[0], digest_of(found[1]), 0, 0)

    def _fetch_block(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`; what comes with it is kept for the next read."""
        if offset == self._next:
            ahead, self._ahead = self._ahead, min(2 * self._ahead, MAX_AHEAD_BYTES)
        else:
            ahead = self._ahead = _AHEAD_BYTES
        stop = min(offset + max(len(view), ahead), self.size)
        self._block = b""
        if stop - offset == len(view):
            self.fetch_into(offset, view)
        else:
            data = bytearray(stop - offset)
            self.fetch_into(offset, data)
            view[:] = data[: len(view)]
            self._block, self._block_at = data, offset
        self._next = stop


def digest_of(version: str) -> int:
    """What `FileId.mtime_ns` holds of a version; 0 for none."""
    digest = hashlib.blake2b(version.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 if version else 0


_held: ContextVar[RemoteFile | None] = ContextVar("held", default=None)


class _Borrowed(RemoteFile):
    """A file that somebody else holds open, and closes."""

    def __init__(self, file: RemoteFile) -> None:
        self.__dict__ = file.__dict__

    def close(self) -> None:
        """Leave it to its owner."""


@contextmanager
def held(url: str) -> Iterator[None]:
    """While this lasts, whoever opens `url` in this context shares one open file."""
    with RemoteFile(url) as file:
        token = _held.set(file)
        try:
            yield
        finally:
            _held.reset(token)


def open_remote(url: str, first_bytes: int | None, expected: FileId | None) -> RemoteFile:
    """Open a URL, or share what is held; see `source.open_source`."""
    file = _held.get()
    if file is not None and file.path == url:
        return _Borrowed(file)
    return RemoteFile(url, first_bytes or FIRST_BYTES, expected)
