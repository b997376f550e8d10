"""Files behind URLs, read in ranges through fsspec (https://filesystem-spec.readthedocs.io).

A header costs a few requests: the first read fetches a block, and reads that follow one another
fetch ahead. Identity is the size and whatever the file system tells a version by (ETag, hash,
time of change), so that a task on another machine can open the same URL and compare.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from anamnesis import stopping
from anamnesis.errors import FormatError, IntegrityError, UnsupportedError
from anamnesis.limits import KiB, MiB
from anamnesis.readers.base import FileId
from anamnesis.readers.urls import call, filesystem, http_range, is_http, speaks

FIRST_BYTES = MiB
_AHEAD_BYTES, _MAX_AHEAD_BYTES = 64 * KiB, 4 * MiB
# What drivers call the version of a file; the first that is there counts.
_VERSIONS = (
    "ETag",
    "etag",
    "blob_id",
    "md5Hash",
    "Content-MD5",
    "checksum",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "modified",
    "created",
)


class RemoteFile:
    """A file behind a URL; `FileId.mtime_ns` holds a digest of its version."""

    def __init__(self, url: str, first_bytes: int = FIRST_BYTES) -> None:
        """Ask for size and version; raises OSError, FormatError or UnsupportedError."""
        self.path = url
        self._fs, self._name = filesystem(url)
        self.id = self._identity()
        self._file: Any = None
        self._lock = threading.Lock()
        self._block = b""
        self._block_at = 0
        self._ahead = first_bytes
        self._next = 0  # where a read that follows the one before would begin

    @property
    def size(self) -> int:
        return self.id.size

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable buffer from `offset`; IntegrityError if the file ends before."""
        stopping.check()
        view = memoryview(buffer).cast("B")
        if offset + len(view) > self.size:
            raise IntegrityError(
                f"{self.path}: {len(view):,} bytes from byte {offset:,} were expected; it has "
                f"{self.size:,} bytes"
            )
        with self._lock:
            begin = offset - self._block_at
            done = 0
            if 0 <= begin < len(self._block):
                done = min(len(view), len(self._block) - begin)
                view[:done] = self._block[begin : begin + done]
            if done < len(view):
                view[done:] = self._fetch_block(offset + done, len(view) - done)

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, for headers; the caller has checked the size."""
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self, expected: FileId | None = None) -> None:
        """Raise IntegrityError when the file is not the one that was opened at first."""
        before = expected or self.id
        call(self.path, lambda: self._fs.invalidate_cache(self._name))
        now = self._identity()
        if now != before:
            raise IntegrityError(
                f"{self.path}: changed while it was read (size {before.size:,} -> {now.size:,} "
                "bytes, or another version of the same size)"
            )

    def close(self) -> None:
        """Let go of what was fetched; a second call does nothing."""
        self._block = b""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _identity(self) -> FileId:
        info: Mapping[str, Any] = call(self.path, lambda: self._fs.info(self._name))
        kind, size = info.get("type", "file"), info.get("size")
        if kind != "file":
            raise FormatError(f"{self.path}: is a {kind}, not a file")
        if size is None or info.get("partial") is False:
            raise UnsupportedError(
                f"{self.path}: the server does not "
                + ("say how large it is" if size is None else "serve ranges of it")
                + "; download the file first"
            )
        version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        digest = hashlib.blake2b(version.encode(), digest_size=8).digest()
        return FileId(self.path, int(size), int.from_bytes(digest) >> 1 if version else 0, 0, 0)

    def _fetch_block(self, offset: int, nbytes: int) -> memoryview:
        """`nbytes` bytes from `offset`; what comes with them is kept for the next read."""
        if offset == self._next:
            ahead, self._ahead = self._ahead, min(2 * self._ahead, _MAX_AHEAD_BYTES)
        else:
            ahead = self._ahead = _AHEAD_BYTES
        stop = min(offset + max(nbytes, ahead), self.size)
        data = call(self.path, lambda: self._fetch(offset, stop), stop - offset)
        if len(data) != stop - offset:
            raise IntegrityError(
                f"{self.path}: {len(data):,} bytes came where bytes {offset:,} to {stop:,} were "
                "asked for"
            )
        self._next = stop
        self._block, self._block_at = (data, offset) if len(data) > nbytes else (b"", 0)
        return memoryview(data)[:nbytes]

    def _fetch(self, start: int, stop: int) -> bytes:
        if is_http(self._fs):
            return http_range(self._fs, self._name, start, stop, self.size)
        if not speaks(self._fs, "hf"):
            data: bytes = self._fs.cat_file(self._name, start=start, end=stop)
            return data
        # The hub's `cat_file` opens a file that reads ahead.
        if self._file is None:
            self._file = self._fs.open(self._name, cache_type="none", block_size=1)
        self._file.seek(start)
        data = self._file.read(stop - start)
        return bytes(data)
