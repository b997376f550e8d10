"""Files behind URLs, read in ranges through fsspec (https://filesystem-spec.readthedocs.io).

A header costs a few requests: the first read fetches a block, and reads that follow one another
fetch ahead. Identity is the size and whatever the file system tells a version by (ETag, hash,
time of change), so that a task on another machine can open the same URL and compare. Drivers come
as extras and take their credentials from where they always do, or from fsspec's own configuration.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    IntegrityError,
    UnsupportedError,
    UsageError,
)
from anamnesis.limits import KiB, MiB
from anamnesis.readers.base import FileId

FIRST_BYTES = MiB
_AHEAD_BYTES, _MAX_AHEAD_BYTES = 64 * KiB, 4 * MiB
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_EXTRAS["hf"] = "hf"
# Their files fetch exactly what is asked for; the `cat_file` of `http` would take a whole file from
# a server that ignores ranges, that of `hf` would read ahead.
_OPENED = frozenset(("http", "https", "hf"))
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
T = TypeVar("T")


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it.

    Raises UnsupportedError when the driver is not installed, UsageError for an unknown protocol.
    """
    from fsspec.core import url_to_fs  # noqa: PLC0415 - fsspec is for URLs alone

    protocol = url.partition(":")[0].lower()
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f'pip install "anamnesis-arrow[{extra}]"' if extra else str(error)
        raise UnsupportedError(
            f"{url}: reading {protocol}:// needs a driver that is not installed: {hint}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    return fs, path


def local_path(url: str) -> str | None:
    """The path on this machine that a `file://` URL means, else None."""
    if not url.lower().startswith(("file://", "local://")):
        return None
    return str(filesystem(url)[1])


class RemoteFile:
    """A file behind a URL; `FileId.mtime_ns` holds a digest of its version."""

    def __init__(self, url: str, first_bytes: int = FIRST_BYTES) -> None:
        """Ask for size and version; raises OSError, FormatError or UnsupportedError."""
        self.path = url
        self._fs, self._name = filesystem(url)
        self._opened = not _OPENED.isdisjoint(protocols(self._fs))
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
        data = call(self.path, lambda: self._fetch(offset, stop))
        if len(data) != stop - offset:
            raise IntegrityError(
                f"{self.path}: {len(data):,} bytes came where bytes {offset:,} to {stop:,} were "
                "asked for"
            )
        self._next = stop
        self._block, self._block_at = (data, offset) if len(data) > nbytes else (b"", 0)
        return memoryview(data)[:nbytes]

    def _fetch(self, start: int, stop: int) -> bytes:
        if not self._opened:
            data: bytes = self._fs.cat_file(self._name, start=start, end=stop)
            return data
        if self._file is None:
            self._file = self._fs.open(self._name, cache_type="none", block_size=1, size=self.size)
        self._file.seek(start)
        try:
            data = self._file.read(stop - start)
        except ValueError as error:
            if "range" not in str(error):
                raise
            raise UnsupportedError(
                f"{self.path}: the server does not serve ranges of it; download the file first"
            ) from error
        return data


def call(url: str, request: Callable[[], T]) -> T:
    """Make a request, again when the connection failed; drivers' own errors become OSError."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return request()
        except AnamnesisError:
            raise
        except Exception as error:
            if attempt == _ATTEMPTS or not _passing(error):
                raise _os_error(url, error) from error
        time.sleep(_PAUSE_SECONDS * attempt)
    raise AssertionError("unreachable")


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    return status if isinstance(status, int) and status else None


def _passing(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec's HTTP driver says so of every error
    status = _status(error)
    if status is not None:
        return status >= 500 or status == 429
    if isinstance(error, ConnectionRefusedError):
        return False
    return isinstance(error, ConnectionError | TimeoutError) or _is_aiohttp(error)


def _is_aiohttp(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "aiohttp"


def _os_error(url: str, error: BaseException) -> OSError:
    cause = error
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        cause = error.__cause__
    status = _status(cause)
    if status in (401, 403) or isinstance(cause, PermissionError):
        return PermissionError(errno.EACCES, f"permission denied ({_told(cause)})", url)
    if status in (404, 410) or isinstance(cause, FileNotFoundError):
        # Drivers may say more than the path: a missing bucket, a repository that is private.
        more = f" ({_told(cause)})" if " " in str(cause) and status is None else ""
        return FileNotFoundError(errno.ENOENT, f"no such file{more}", url)
    return OSError(errno.EIO, _told(cause), url)


def _told(error: BaseException) -> str:
    message = getattr(error, "message", None)
    status = _status(error)
    text = f"{status} {message}" if status and message else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]


def protocols(fs: Any) -> tuple[str, ...]:
    """The names of a file system."""
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
