"""Requests to fsspec's file systems (https://filesystem-spec.readthedocs.io), and their errors.

Drivers come as extras and take their credentials from where they always do, or from fsspec's own
configuration. Their code raises whatever it likes; what comes out of it here is an OSError or one
of this package's errors. An exception that this package's own code raises is passed on as it is.

A request has `STALL_SECONDS` to answer, and a body as long again for every `SLOWEST_BYTES` of it;
over HTTP a body may not pause for that long either. Three times that, and the pauses between, is
when a read fails. It is made in a thread, so that neither a driver without a time limit of its own
nor one that sleeps keeps the program from ending.
"""

from __future__ import annotations

import asyncio
import errno
import re
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from anamnesis import stopping
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    IntegrityError,
    UnsupportedError,
    UsageError,
)
from anamnesis.limits import MiB

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
STALL_SECONDS = 30.0
SLOWEST_BYTES = MiB  # a body's, in STALL_SECONDS
_POLL_SECONDS = 0.2
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
    except (AnamnesisError, OSError):
        raise
    except Exception as error:  # all of it is a driver's, which cannot make sense of this URL
        if _is_no_archive(error):
            raise FormatError(f"{url}: {_told(error)}") from error
        text = str(error) if isinstance(error, ValueError) else _told(error)
        raise UsageError(f"{url}: {text}") from error
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
    import aiohttp  # noqa: PLC0415 - for URLs alone
    from fsspec.asyn import sync  # noqa: PLC0415

    async def fetch() -> bytes:
        settings = dict(fs.kwargs)
        headers = {**settings.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}"}
        headers["Accept-Encoding"] = "identity"
        patience = aiohttp.ClientTimeout(total=None, connect=STALL_SECONDS, sock_read=STALL_SECONDS)
        settings.setdefault("timeout", patience)
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers, **settings) as response:
            response.raise_for_status()
            if response.status != 206 and (start, stop) != (0, size):
                raise UnsupportedError(
                    f"{url}: the server does not serve ranges of it; download the file first"
                )
            if response.status == 206:
                _check_range(url, response.headers.get("Content-Range", ""), start, stop, size)
            try:
                data: bytes = await response.content.readexactly(stop - start)
            except asyncio.IncompleteReadError as error:
                return error.partial
            return data

    data: bytes = sync(fs.loop, fetch)
    return data


def _check_range(url: str, found: str, start: int, stop: int, size: int) -> None:
    """IntegrityError unless a partial answer says that it is the range that was asked for.

    RFC 9110, section 14.4; `*` is a size that the server does not know.
    """
    match = re.fullmatch(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", found, re.ASCII | re.IGNORECASE)
    wanted = (str(start), str(stop - 1))
    if match is None or match.groups()[:2] != wanted or match[3] not in ("*", str(size)):
        raise IntegrityError(
            f"{url}: bytes {start:,} to {stop - 1:,} of {size:,} were asked for; the answer says "
            f"it is {found!r:.100} (Content-Range)"
        )


def call(url: str, request: Callable[[], T], nbytes: int = 0) -> T:
    """Make a request, again when the connection failed; drivers' own errors become OSError.

    `nbytes` are those of the body that is to come.
    """
    seconds = STALL_SECONDS * (1 + nbytes / SLOWEST_BYTES)
    for attempt in range(1, _ATTEMPTS):
        try:
            return _in_time(request, seconds)
        except Exception as error:
            if not _passing(error):
                raise _translated(url, error) from error
        stopping.check()
        time.sleep(_PAUSE_SECONDS * attempt)
    try:
        return _in_time(request, seconds)
    except Exception as error:
        raise _translated(url, error) from error


def _in_time(request: Callable[[], T], seconds: float) -> T:
    """Make a request in a thread; TimeoutError when it takes longer than `seconds`.

    The thread is left alone then: nothing waits for it, at the program's end neither.
    """
    answers: SimpleQueue[Callable[[], T]] = SimpleQueue()

    def ask() -> None:
        try:
            answer = request()
        except BaseException as error:
            caught = error

            def fail() -> T:
                raise caught

            answers.put(fail)
        else:
            answers.put(lambda: answer)

    threading.Thread(target=ask, name="amn-request", daemon=True).start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stopping.check()
        try:
            answered = answers.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
        return answered()
    raise TimeoutError(errno.ETIMEDOUT, f"no answer in {seconds:.0f} seconds")


def _translated(url: str, error: Exception) -> Exception:
    """The error that this package raises for one of a request."""
    if isinstance(error, AnamnesisError) or _is_ours(error):
        return error
    if _is_no_archive(error):
        return FormatError(f"{url}: {_told(error)}")
    return _os_error(url, error)


def _is_ours(error: Exception) -> bool:
    """Whether this package's own code raised it, and no driver: a bug, unless the system's word."""
    if isinstance(error, OSError):
        return False
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return str(last.f_globals.get("__name__", "")).startswith("anamnesis.")


def _is_no_archive(error: Exception) -> bool:
    """Whether a driver of archives (`zip://`, `tar://`) says that this is none."""
    import tarfile  # noqa: PLC0415
    import zipfile  # noqa: PLC0415

    return isinstance(error, zipfile.BadZipFile | tarfile.TarError | zlib.error)


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
