"""Files behind URLs, read in ranges; identity is the size and what their server calls the version.

`origin_of` finds who reads the ranges of a URL: `http` for HTTP and the hub, where each answer
names size and version, or any file system of fsspec, which is asked for them. `FileId.mtime_ns`
holds a digest of the version, so that a task on another machine can open the same URL and compare.
A file that was opened with the identity of an earlier look is not asked for it again.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Protocol

from anamnesis import stopping
from anamnesis.errors import FormatError, IntegrityError, UnsupportedError
from anamnesis.limits import KiB, MiB
from anamnesis.readers import hub, urls
from anamnesis.readers.base import FileId
from anamnesis.readers.closing import Closing
from anamnesis.readers.http import HttpOrigin, HubOrigin, changed
from anamnesis.readers.retry import call, call_on, not_installed

_S3_URL = re.compile("s3a?://", re.IGNORECASE)
FIRST_BYTES = 256 * KiB  # of which the header of most shards is a part
_AHEAD_BYTES, MAX_AHEAD_BYTES = 64 * KiB, 4 * MiB
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


class Origin(Protocol):
    """Who reads the ranges of one file; from any thread."""

    def identify(self, first_bytes: int) -> tuple[tuple[int, str], bytes]:
        """Size and version, and as many of the first bytes as came along."""
        ...

    def read_into(self, start: int, view: memoryview, size: int) -> str | None:
        """Fill `view` from byte `start`; returns the version of the answer, None for unknown."""
        ...

    def now(self) -> tuple[int, str] | None:
        """Size and version, asked anew; None where every answer so far named the version."""
        ...


class StoreOrigin:
    """A file of one of fsspec's file systems, which is asked for size and version."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._name = urls.driver(url)

    def identify(self, first_bytes: int) -> tuple[tuple[int, str], bytes]:
        """Size and version; raises OSError, FormatError or UnsupportedError."""
        info: Mapping[str, Any] = call(self.url, lambda: self._fs.info(self._name))
        kind, size = info.get("type", "file"), info.get("size")
        if kind != "file":
            raise FormatError(f"{self.url}: is a {kind}, not a file")
        if size is None:
            raise UnsupportedError(
                f"{self.url}: the server does not say how large it is; download the file first"
            )
        version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        return (int(size), version), b""

    def read_into(self, start: int, view: memoryview, size: int) -> str | None:
        """Fill `view` from byte `start`."""
        stop = start + len(view)
        nbytes = len(view)
        data = call(self.url, lambda: self._fs.cat_file(self._name, start=start, end=stop), nbytes)
        _fill(self.url, start, view, data)
        return None

    def now(self) -> tuple[int, str] | None:
        """Size and version, asked anew."""
        call(self.url, self._fs.invalidate_cache)  # by name, adlfs keeps the listing that has it
        return self.identify(0)[0]


class S3Origin(StoreOrigin):
    """An object in S3, of which every answer names the version: its ETag.

    Once it is known, requests are for that version alone (`If-Match`), so that nothing of another
    one is sent. https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._etag = ""
        self._all_named = True

    def identify(self, first_bytes: int) -> tuple[tuple[int, str], bytes]:
        """Size and version with the first bytes: never those of a listing that s3fs remembers."""
        if first_bytes:
            try:
                data, answer = self._get(0, first_bytes)
            except FileNotFoundError:  # or a folder, which the look-up below tells
                pass
            except OSError as error:
                if _code(error) not in ("416", "InvalidRange"):  # an empty object
                    raise
            else:
                size = str(answer.get("ContentRange") or "").rpartition("/")[2]
                self._etag = str(answer.get("ETag") or "")
                if self._etag and size.isascii() and size.isdigit():
                    return (int(size), self._etag), data
        call(self.url, lambda: self._fs.invalidate_cache(self._name))
        return super().identify(0)

    def read_into(self, start: int, view: memoryview, size: int) -> str:
        """Fill `view` from byte `start`; the object's ETag."""
        data, answer = self._get(start, len(view))
        _fill(self.url, start, view, data)
        self._etag = str(answer.get("ETag") or "")
        self._all_named &= bool(self._etag)
        return self._etag

    def _get(self, start: int, nbytes: int) -> tuple[bytes, Mapping[str, Any]]:
        """A range, of the version that was seen if any was, and what the answer says besides."""
        bucket, key, version = self._fs.split_path(self._name)  # of a driver that is asked for it
        wanted = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{start + nbytes - 1}"}
        wanted |= {"VersionId": version} if version else {}
        wanted |= {"IfMatch": self._etag} if self._etag else {}

        async def request() -> tuple[bytes, Mapping[str, Any]]:
            try:
                answer = await self._fs._call_s3("get_object", **wanted)
            except Exception as error:
                if _code(error) in ("412", "PreconditionFailed"):
                    raise changed(self.url) from error
                known = _translated(error)
                if isinstance(known, FileNotFoundError):
                    raise known from None
                if known is error:
                    raise
                raise known from error
            async with answer["Body"] as body:
                return await body.read(), answer

        return call_on(self._fs.loop, self.url, request, nbytes)

    def now(self) -> tuple[int, str] | None:
        return None if self._all_named else super().now()


def _code(error: BaseException | None) -> str:
    """S3's code for an error, or for what it comes of."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code"))
        error = error.__cause__
    return ""


def _translated(error: Exception) -> Exception:
    """botocore's error as s3fs says it by itself."""
    errors = import_module("s3fs.errors")  # a driver's
    found: Exception = errors.translate_boto_error(error)
    return found


def _fill(url: str, start: int, view: memoryview, data: bytes) -> None:
    if len(data) != len(view):
        raise IntegrityError(
            f"{url}: {len(data):,} bytes came where bytes {start:,} to {start + len(view):,} were "
            "asked for"
        )
    view[:] = data


def origin_of(url: str) -> Origin:
    """Who reads the ranges of a URL; UnsupportedError when its driver is not installed."""
    place = hub.parse(url)
    if place is not None:
        return HubOrigin(hub.at_commit(place), _http(url))
    if url.lower().startswith(("http://", "https://")) and "::" not in url:
        fs, name = urls.driver(url)
        return HttpOrigin(name, fs)
    return S3Origin(url) if _S3_URL.match(url) else StoreOrigin(url)


def _http(url: str) -> Any:
    """fsspec's file system for HTTP, through the proxies of the environment as huggingface_hub."""
    hub.driver(url)
    import fsspec  # noqa: PLC0415 - for URLs alone

    try:
        return fsspec.filesystem("http", client_kwargs={"trust_env": True})
    except ImportError as error:
        raise not_installed(url, error) from error


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
