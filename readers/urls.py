"""Requests to fsspec's file systems (https://filesystem-spec.readthedocs.io), and their errors.

Drivers come as extras and take their credentials from where they always do, or from fsspec's own
configuration.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

from anamnesis.errors import AnamnesisError, UnsupportedError, UsageError

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_EXTRAS["hf"] = "hf"
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


def speaks(fs: Any, *protocols: str) -> bool:
    """Whether a file system is that of one of `protocols`."""
    own = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return not own.isdisjoint(protocols)


def is_http(fs: Any) -> bool:
    """Whether a file system is that of HTTP, where nothing is a folder."""
    return speaks(fs, "http", "https")


def http_range(fs: Any, url: str, start: int, stop: int, size: int) -> bytes:
    """Bytes `[start, stop)` of a file of `size`; never more than those are received.

    fsspec's own `cat_file` would take the whole file from a server that ignores ranges.
    """
    from fsspec.asyn import sync  # noqa: PLC0415 - fsspec is for URLs alone

    async def fetch() -> bytes:
        settings = dict(fs.kwargs)
        headers = {**settings.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}"}
        headers["Accept-Encoding"] = "identity"
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers, **settings) as response:
            response.raise_for_status()
            if response.status != 206 and (start, stop) != (0, size):
                raise UnsupportedError(
                    f"{url}: the server does not serve ranges of it; download the file first"
                )
            try:
                data: bytes = await response.content.readexactly(stop - start)
            except asyncio.IncompleteReadError as error:
                return error.partial
            return data

    data: bytes = sync(fs.loop, fetch)
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
