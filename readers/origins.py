"""Who reads the ranges of a URL: HTTP and the hub, three stores, or any file system of fsspec.

Of the first ones every answer names size and version of the file, so that nothing is asked besides
ranges. Once the version is known, S3 and Azure are asked for that alone, and send nothing of
another. What a driver's own reading does not tell, its request does, with its credentials, by its
public interface; S3's has none for it.

S3: `ETag`, `If-Match` (https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html);
Google: `X-Goog-Generation`
(https://cloud.google.com/storage/docs/json_api/v1/objects/get); Azure: `ETag`, `If-Match`
(https://learn.microsoft.com/rest/api/storageservices/get-blob).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from anamnesis.errors import FormatError, IntegrityError, UnsupportedError
from anamnesis.readers import hub, urls
from anamnesis.readers.http import HttpOrigin, HubOrigin, changed
from anamnesis.readers.retry import call, call_on, not_installed, status_of

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


class Answer(NamedTuple):
    """Some bytes of a file, how large it is (None: not said), and its version ("": not named)."""

    data: bytes
    size: int | None
    version: str


class NamedOrigin(StoreOrigin):
    """An object of a store whose every answer names the version."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._version = ""
        self._all_named = True

    def _get(self, start: int, nbytes: int) -> Answer:
        """A range, of `_version` alone where the store takes such a condition."""
        raise NotImplementedError

    def identify(self, first_bytes: int) -> tuple[tuple[int, str], bytes]:
        """Size and version with the first bytes: never those of a listing that a driver has."""
        if first_bytes:
            try:
                found = self._get(0, first_bytes)
            except FileNotFoundError:  # or a folder, which the look-up below tells
                pass
            except OSError as error:
                if not _is_beyond(error):  # an empty object
                    raise
            else:
                self._version = found.version
                if found.version and found.size:
                    return (found.size, found.version), found.data
        call(self.url, lambda: self._fs.invalidate_cache())
        return super().identify(0)

    def read_into(self, start: int, view: memoryview, size: int) -> str:
        """Fill `view` from byte `start`; the object's version."""
        found = self._get(start, len(view))
        _fill(self.url, start, view, found.data)
        self._version = found.version
        self._all_named &= bool(found.version)
        return found.version

    def now(self) -> tuple[int, str] | None:
        return None if self._all_named else super().now()


class S3Origin(NamedOrigin):
    """An object in S3."""

    def _get(self, start: int, nbytes: int) -> Answer:
        bucket, key, version = self._fs.split_path(self._name)  # of a driver that is asked for it
        wanted = {"Bucket": bucket, "Key": key, "Range": _range(start, nbytes)}
        wanted |= {"VersionId": version} if version else {}
        wanted |= {"IfMatch": self._version} if self._version else {}

        async def request() -> Answer:
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
                data = await body.read()
            return Answer(data, _total(answer.get("ContentRange")), str(answer.get("ETag") or ""))

        return call_on(self._fs.loop, self.url, request, nbytes)


class GoogleOrigin(NamedOrigin):
    """An object in Google's store, whose generation is in each answer.

    None is asked for: gcsfs logs a refusal with its traceback.
    """

    def _get(self, start: int, nbytes: int) -> Answer:
        headers = {"Range": _range(start, nbytes)}
        where = self._fs.url(self._name)

        def request() -> Answer:
            found, data = self._fs.call("GET", where, headers=headers)
            version = str(found.get("X-Goog-Generation") or "")
            return Answer(bytes(data), _total(found.get("Content-Range")), version)

        return call(self.url, request, nbytes)


class AzureOrigin(NamedOrigin):
    """A blob in Azure."""

    def _get(self, start: int, nbytes: int) -> Answer:
        container, name, version = self._fs.split_path(self._name)
        wanted: dict[str, Any] = {"version_id": version} if version else {}

        async def request() -> Answer:
            from azure.core import MatchConditions, exceptions  # noqa: PLC0415 - the driver's

            if self._version:
                same = MatchConditions.IfNotModified
                wanted.update(etag=self._version, match_condition=same)
            client = self._fs.service_client.get_blob_client(container, name or "-")
            try:
                async with client as blob:
                    stream = await blob.download_blob(start, nbytes, retry_total=0, **wanted)
                    found = stream.properties
                    return Answer(await stream.readall(), _total(found.content_range), found.etag)
            except exceptions.ResourceModifiedError as error:
                raise changed(self.url) from error
            except exceptions.ResourceNotFoundError as error:
                raise FileNotFoundError(self.url) from error

        return call_on(self._fs.loop, self.url, request, nbytes)


# By the protocol of a URL; a chain of them (`zip://…::s3://…`) is fsspec's own.
_NAMED: dict[str, type[NamedOrigin]] = {
    "abfs": AzureOrigin,
    "abfss": AzureOrigin,
    "az": AzureOrigin,
    "gcs": GoogleOrigin,
    "gs": GoogleOrigin,
    "s3": S3Origin,
    "s3a": S3Origin,
}


def _range(start: int, nbytes: int) -> str:
    return f"bytes={start}-{start + nbytes - 1}"


def _total(said: object) -> int | None:
    """How large a file is by the `Content-Range` of an answer."""
    total = str(said or "").rpartition("/")[2]
    return int(total) if total.isascii() and total.isdigit() else None


def _is_beyond(error: BaseException | None) -> bool:
    """Whether an error is of a range behind the end (416)."""
    cause = error.__cause__ if error is not None else None
    status = None if cause is None else status_of(cause)
    return status == 416 or _code(error) in ("416", "InvalidRange")


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
    named = _NAMED.get(url.partition("://")[0].lower(), StoreOrigin)
    return named(url)


def _http(url: str) -> Any:
    """fsspec's file system for HTTP, through the proxies of the environment as huggingface_hub."""
    hub.driver(url)
    import fsspec  # noqa: PLC0415 - for URLs alone

    try:
        return fsspec.filesystem("http", client_kwargs={"trust_env": True})
    except ImportError as error:
        raise not_installed(url, error) from error


__all__ = ["Origin", "StoreOrigin", "origin_of"]
