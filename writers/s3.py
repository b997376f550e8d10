"""Objects in S3, and in stores that speak its protocol, by botocore, which the extra `s3` brings.

An upload has numbered parts, which many workers send and which outlive them. Each part goes with
its MD5 (Content-MD5), so that the store refuses one that was cut or changed on its way. Conditions
are `If-None-Match: *` and `If-Match`, and the store's clock is that of its answers, so that no
other clock counts. Where conditions of two requests meet (409), each is made again.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from anamnesis import stopping
from anamnesis.errors import UnsupportedError, without_secrets
from anamnesis.limits import KiB
from anamnesis.readers.urls import backoff, denied, sleep
from anamnesis.words import extra
from anamnesis.writers.objects import PAGE, Besides, Parts, for_each

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10, 60, 6
CONNECTIONS = 64
_PIECE_BYTES = 256 * KiB  # of a body, on its way to where it is put
T = TypeVar("T")
_ABSENT = ("404", "NoSuchKey", "NoSuchUpload", "NotFound")
_REFUSED: tuple[str, ...] = (
    "401",
    "403",
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
)
_REFUSED += ("SignatureDoesNotMatch", "RequestTimeTooSkewed", "TokenRefreshRequired")
_CONDITIONS = ("412", "PreconditionFailed")
# Another request for the same key is on its way, maybe one of ours whose answer was lost.
_BUSY = ("409", "ConditionalRequestConflict", "OperationAborted")
_UNKNOWN = ("501", "NotImplemented")
_CLIENT = {"key": "aws_access_key_id", "secret": "aws_secret_access_key"}
_CLIENT |= {"token": "aws_session_token", "endpoint_url": "endpoint_url"}


class S3:
    """A client of one endpoint, with credentials as botocore and s3fs find them."""

    lists_uploads = True

    @staticmethod
    def besides(parts: int) -> Besides:
        """To begin, list the parts and other uploads, and complete."""
        return Besides(0, 3 + 1 + parts // PAGE, 0)

    def __init__(self, root: str, attempts: int = ATTEMPTS) -> None:
        """Make the client; UnsupportedError when the driver is not installed."""
        try:
            from botocore.config import Config  # noqa: PLC0415
            from botocore.session import Session  # noqa: PLC0415
        except ImportError as error:
            raise UnsupportedError(
                f"{root}: writing needs a driver that is not installed: {extra('s3')}"
            ) from error
        settings = _settings()
        anonymous = settings.pop("anon", False)
        usual: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": attempts},
            "max_pool_connections": CONNECTIONS,
            # Checksums of newer clients come in a form that other stores do not take; a part has
            # its MD5 instead.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        usual |= {"signature_version": _unsigned()} if anonymous else {}
        config = Config(**{**usual, **settings.pop("config_kwargs", {})})
        session = Session(profile=settings.pop("profile", None))
        self._client: Any = session.create_client("s3", config=config, **settings)

    def names(self, folder: str) -> list[str]:
        bucket, key = _split(folder)
        prefix = f"{key}/" if key else ""
        found: set[str] = set()
        pages = self._client.get_paginator("list_objects_v2")
        with _explained(folder):
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                keys = [entry["Key"] for entry in page.get("Contents", ())]
                keys += [entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", ())]
                found.update(key[len(prefix) :] for key in keys)
        return sorted(found - {""})

    def size(self, url: str) -> int:
        return int(self._ask("head_object", url)["ContentLength"])

    def read(self, url: str, start: int, stop: int) -> bytes:
        data = bytearray(stop - start)
        self.read_into(url, start, memoryview(data))
        return bytes(data)

    def read_into(self, url: str, start: int, view: memoryview) -> None:
        wanted = f"bytes={start}-{start + len(view) - 1}"
        self._answered(url, lambda body: _fill(url, body, view), Range=wanted)

    def get(self, url: str) -> tuple[bytes, str]:
        return self._body(url)

    def age(self, url: str) -> float:
        answer = self._ask("head_object", url)
        now = email.utils.parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return float((now - answer["LastModified"]).total_seconds())

    def put(self, url: str, data: bytes, *, version: str | None = None, new: bool = False) -> str:
        condition = {"IfNoneMatch": "*"} if new else {}
        if version is not None:
            condition = {"IfMatch": version}
        return str(self._ask("put_object", url, Body=data, **_md5(data), **condition)["ETag"])

    def remove(self, urls: Sequence[str]) -> None:
        for_each(urls, lambda url: self._ask("delete_object", url))

    def begin(self, url: str, folder: str) -> str:
        return str(self._ask("create_multipart_upload", url)["UploadId"])

    def part(self, url: str, upload: str, number: int, data: Any) -> str:
        md5 = _md5(data)
        body = bytes(data) if not isinstance(data, bytes | bytearray) else data
        answer = self._ask("upload_part", url, UploadId=upload, PartNumber=number, Body=body, **md5)
        return str(answer["ETag"])

    def parts(self, url: str, upload: str) -> set[tuple[int, str, int]]:
        bucket, key = _split(url)
        pages = self._client.get_paginator("list_parts")
        with _explained(url):
            return {
                (part["PartNumber"], part["ETag"], part["Size"])
                for page in pages.paginate(Bucket=bucket, Key=key, UploadId=upload)
                for part in page.get("Parts", ())
            }

    def complete(self, url: str, upload: str, parts: Parts, *, new: bool) -> None:
        listed = [{"PartNumber": number, "ETag": tag} for number, tag in parts]
        condition = {"IfNoneMatch": "*"} if new else {}
        wanted = {"UploadId": upload, "MultipartUpload": {"Parts": listed}}
        try:
            try:
                self._ask("complete_multipart_upload", url, **wanted, **condition)
            except UnsupportedError:  # a store without conditions
                self._ask("complete_multipart_upload", url, **wanted)
        except OSError:
            # The answer may be lost and not the request: then the object is there, and this one,
            # and the request that was made again found no upload, or the name taken.
            with contextlib.suppress(OSError):
                if self._ask("head_object", url)["ETag"].strip('"') == _etag_of(parts):
                    return
            raise

    def abort(self, url: str, upload: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask("abort_multipart_upload", url, UploadId=upload)

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        bucket, key = _split(prefix)
        pages = self._client.get_paginator("list_multipart_uploads")
        root = prefix[: len(prefix) - len(key)]
        with _explained(prefix):
            return [
                (root + entry["Key"], entry["UploadId"])
                for page in pages.paginate(Bucket=bucket, Prefix=key)
                for entry in page.get("Uploads", ())
            ]

    def _ask(self, operation: str, url: str, **arguments: Any) -> Any:
        bucket, key = _split(url)
        for attempt in range(1, ATTEMPTS + 1):
            stopping.check()
            try:
                with _explained(url):
                    return getattr(self._client, operation)(Bucket=bucket, Key=key, **arguments)
            except BlockingIOError:
                if attempt == ATTEMPTS:
                    raise
            sleep(backoff(attempt))
        raise AssertionError("unreachable")

    def _body(self, url: str, **arguments: Any) -> tuple[bytes, str]:
        return self._answered(url, lambda body: body.read(), **arguments)

    def _answered(self, url: str, take: Callable[[Any], T], **arguments: Any) -> tuple[T, str]:
        """What is taken of a body, which is asked for again when it ends early, and the ETag.

        botocore leaves that to its caller.
        """
        for attempt in range(1, ATTEMPTS + 1):
            answer = self._ask("get_object", url, **arguments)
            try:
                with _explained(url):
                    return take(answer["Body"]), str(answer["ETag"])
            except OSError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")


def _fill(url: str, body: Any, view: memoryview) -> None:
    """Fill `view` with a body, piece by piece; OSError when that is not as long."""
    at = 0
    while piece := body.read(_PIECE_BYTES):
        if at + len(piece) > len(view):
            raise OSError(errno.EIO, "a body is longer than its range", url)
        view[at : at + len(piece)] = piece
        at += len(piece)
    if at < len(view):
        raise OSError(errno.EIO, "a body ended early", url)


def _settings() -> dict[str, Any]:
    """What fsspec's configuration says of S3, as s3fs reads it, in botocore's words."""
    from fsspec.config import conf  # noqa: PLC0415

    found = dict(conf.get("s3", {}))
    settings = {ours: found[key] for key, ours in _CLIENT.items() if found.get(key)}
    settings |= {key: found[key] for key in ("anon", "profile", "config_kwargs") if found.get(key)}
    return settings | dict(found.get("client_kwargs") or {})


def _unsigned() -> Any:
    from botocore import UNSIGNED  # noqa: PLC0415

    return UNSIGNED


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def _md5(data: Any) -> dict[str, str]:
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return {"ContentMD5": base64.b64encode(digest).decode()}


def _etag_of(parts: Parts) -> str:
    """The ETag of an object of parts: the MD5 of their MD5s, and how many there are."""
    digests = b"".join(bytes.fromhex(tag.strip('"')) for _, tag in parts)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """botocore's errors as OSError, without what is secret."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        raise _os_error(url, error) from None
    except BotoCoreError as error:
        kind = type(error).__name__
        text = without_secrets(f"{kind}: {error}")
        if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
            raise PermissionError(errno.EACCES, text, url) from None
        raise OSError(errno.EIO, text, url) from None


def _os_error(url: str, error: Any) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = str(error.response.get("Error", {}).get("Message", ""))
    text = without_secrets(f"{code}: {said}")[:300]
    if code in _ABSENT:
        return FileNotFoundError(errno.ENOENT, f"no such object ({text})", url)
    if code in _REFUSED:
        return PermissionError(errno.EACCES, denied(text, error), url)
    if code in _CONDITIONS:
        return FileExistsError(errno.EEXIST, f"was written by another meanwhile ({text})", url)
    if code in _BUSY:
        return BlockingIOError(errno.EAGAIN, f"is being written by another ({text})", url)
    if code in _UNKNOWN:
        return UnsupportedError(f"{url}: the store does not know this request: {text}")
    return OSError(errno.EIO, text, url)


__all__ = ["S3"]
