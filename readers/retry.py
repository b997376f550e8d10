"""Requests made again when they may succeed later, and drivers' errors as this package's own.

What passes by itself is tried again: connections that fail or are reset, bodies that end early,
server errors, and refusals for now (429, 503). Between attempts is a pause that doubles each time,
with jitter, or what the server asks for: `Retry-After` (RFC 9110, section 10.2.3), or the `t` of
`RateLimit` (https://huggingface.co/docs/hub/rate-limits). A server that asks for more than
`MOST_PAUSE_SECONDS` is not waited for.

A request has `STALL_SECONDS` to answer, and a body as long again for every `SLOWEST_BYTES` of it.
Three times that, and the pauses between, is when a read fails; other errors have `ATTEMPTS`. No
driver without a time limit of its own, nor one that sleeps, keeps the program from ending.

Drivers raise whatever they like; what comes out of here is an OSError or one of this package's
errors, and shows no query of a URL, no password and no token. An exception that this package's own
code raises is passed on as it is.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import random
import re
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import wait
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from anamnesis import stopping
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    IntegrityError,
    UnsupportedError,
    without_secrets,
)
from anamnesis.limits import MiB
from anamnesis.words import extra

ATTEMPTS = 6
STALLS = 3  # attempts at what does not answer in time
PAUSE_SECONDS, MOST_BACKOFF_SECONDS = 0.5, 8.0
MOST_PAUSE_SECONDS = 120.0
STALL_SECONDS = 30.0
SLOWEST_BYTES = MiB  # a body's, in STALL_SECONDS
_POLL_SECONDS = 0.2
_FOR_NOW = frozenset((408, 425, 429))
_AZURE = ("IncompleteRead", "ServiceRe")  # ServiceRequestError, ServiceResponseError
_TRANSPORTS = frozenset(("aiohttp", "httpcore", "httpx", "httpx2"))
# S3's code for a request whose time is more than so far off; others refuse it by other names.
_SKEWED, _TOLERATED_SECONDS = "RequestTimeTooSkewed", 900.0
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_EXTRAS |= {"hf": "hf", "az": "az", "abfs": "az", "abfss": "az"}
T = TypeVar("T")


class CutShort(IntegrityError):  # noqa: N818 - named after what happened
    """Fewer bytes came than the answer announced; the next attempt may bring them all."""


def call(url: str, request: Callable[[], T], nbytes: int = 0) -> T:
    """Make a request in a thread, again when it may succeed later.

    `nbytes` are those of the body that is to come. A thread that is not done in time is left alone:
    nothing waits for it, at the program's end neither.
    """
    return _persist(url, lambda: _in_time(request, _patience(nbytes)))


def call_on(
    loop: asyncio.AbstractEventLoop,
    url: str,
    request: Callable[[], Coroutine[Any, Any, T]],
    nbytes: int = 0,
) -> T:
    """The same for a request that is a coroutine of a loop in another thread; cancelled in time."""
    return _persist(url, lambda: _on_loop(loop, request, _patience(nbytes)))


def _patience(nbytes: int) -> float:
    return STALL_SECONDS * (1 + nbytes / SLOWEST_BYTES)


def _persist(url: str, attempt: Callable[[], T]) -> T:
    number = 0
    while True:
        number += 1
        try:
            return attempt()
        except Exception as error:
            pause = _pause(error, number)
            if pause is None:
                raise translated(url, error) from error
        sleep(pause)


def backoff(number: int) -> float:
    """Seconds to wait after so many attempts, when the server asks for none."""
    seconds = min(PAUSE_SECONDS * float(2 ** (number - 1)), MOST_BACKOFF_SECONDS)
    return seconds * random.uniform(0.5, 1.0)


def _pause(error: BaseException, number: int) -> float | None:
    """Seconds before the next attempt after `number` of them; None when there is none."""
    if not _passing(error):
        return None
    stalled = isinstance(error, TimeoutError)
    if number >= (STALLS if stalled else ATTEMPTS):
        return None
    pause = max(backoff(number), _asked_pause(error))
    return pause if pause <= MOST_PAUSE_SECONDS else None


def _asked_pause(error: BaseException) -> float:
    """Seconds that the server asks for; 0 when it asks for none."""
    cause = _cause(error)
    headers = _headers_of(cause)
    text = str(headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if text:
        date = email.utils.parsedate_tz(text)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
    limit = re.search(r"\bt=(\d{1,9})\b", str(headers.get("RateLimit") or ""))
    return float(limit[1]) if limit and status_of(cause) == 429 else 0.0


def sleep(seconds: float) -> None:
    """Sleep, and end early when the command is to end."""
    until = time.monotonic() + seconds
    stopping.check()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _POLL_SECONDS))
        stopping.check()


def _in_time(request: Callable[[], T], seconds: float) -> T:
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
    raise _late(seconds)


def _on_loop(
    loop: asyncio.AbstractEventLoop, request: Callable[[], Coroutine[Any, Any, T]], seconds: float
) -> T:
    future = asyncio.run_coroutine_threadsafe(request(), loop)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            stopping.check()
            if wait([future], timeout=_POLL_SECONDS).done:
                return future.result()
    finally:
        future.cancel()
    raise _late(seconds)


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"no answer in {seconds:.0f} seconds")


def translated(url: str, error: Exception) -> Exception:
    """The error that this package raises for one of a request."""
    if isinstance(error, AnamnesisError) or _is_ours(error):
        return error
    if is_no_archive(error):
        return FormatError(f"{url}: {words_of(error)}")
    return _os_error(url, error)


def _is_ours(error: Exception) -> bool:
    """Whether this package's own code raised it, and no driver: a bug, unless the system's word."""
    if isinstance(error, OSError):
        return False
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return str(last.f_globals.get("__name__", "")).startswith("anamnesis.")


def is_no_archive(error: Exception) -> bool:
    """Whether a driver of archives (`zip://`, `tar://`) says that this is none."""
    import tarfile  # noqa: PLC0415
    import zipfile  # noqa: PLC0415

    return isinstance(error, zipfile.BadZipFile | tarfile.TarError | zlib.error)


def _cause(error: BaseException) -> BaseException:
    """What an error is about: fsspec's HTTP driver says of every one that a file is missing."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """The status of the answer that an error is about; gcsfs calls it `code`."""
    name = "code" if type(error).__module__.startswith("gcsfs.") else "status"
    status = getattr(error, name, None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    return status if isinstance(status, int) and status else None


def _passing(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    error = _cause(error)
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _FOR_NOW
    if isinstance(error, ConnectionRefusedError):
        return False
    if isinstance(error, ConnectionError | TimeoutError | CutShort):
        return True
    # Transport errors of aiohttp, of httpx, which huggingface_hub asks with, and of Azure's SDK.
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    return package in _TRANSPORTS or (package == "azure" and name.startswith(_AZURE))


def _os_error(url: str, error: BaseException) -> OSError:
    cause = _cause(error)
    status, name = status_of(cause), without_secrets(url)
    refused = status in (401, 403) or str(cause).startswith("Forbidden: ")  # gcsfs's word for 403
    if refused or isinstance(cause, PermissionError) or _SKEWED in str(cause):
        return PermissionError(errno.EACCES, denied(words_of(cause), cause), name)
    if status in (404, 410) or isinstance(cause, FileNotFoundError):
        # Drivers may say more than the path: a missing bucket, a repository that is private.
        more = f" ({words_of(cause)})" if " " in str(cause) and status is None else ""
        return FileNotFoundError(errno.ENOENT, f"no such file{more}", name)
    return OSError(errno.EIO, words_of(cause), name)


def denied(words: str, error: BaseException) -> str:
    """What is said of a refusal, with the way out where this machine's clock may be why."""
    date = email.utils.parsedate_tz(_date_of(error) or _date_of(error.__cause__))
    off = abs(email.utils.mktime_tz(date) - time.time()) if date else 0.0
    wrong = _SKEWED in words or off > _TOLERATED_SECONDS
    hint = "; set this machine's clock, which is not as the server's" if wrong else _ask(error)
    return f"permission denied ({words}){hint}"


def _ask(error: BaseException) -> str:
    """Whom to ask for what a hub refuses (`X-Error-Code`); "" of any other server."""
    code = _headers_of(error).get("X-Error-Code")
    if code not in ("GatedRepo", "RepoNotFound"):
        return ""
    token = "a token of that account (HF_TOKEN, or `hf auth login`)"
    if code == "RepoNotFound":
        return f"; there is no such repository, or a private one, which takes {token}"
    asked: Any = getattr(error, "request_info", None) or getattr(error, "response", None)
    page = str(getattr(asked, "real_url", None) or getattr(asked, "url", ""))
    page = page.partition("/resolve/")[0].replace("/api/models/", "/")
    return f"; the repository is gated: ask for access at {page}, and have {token}"


def _date_of(error: BaseException | None) -> str:
    """The server's time in the answer that an error is about."""
    headers = _headers_of(error)
    return str(headers.get("Date") or headers.get("date") or "")


def _headers_of(error: BaseException | None) -> Mapping[str, Any]:
    """Those of the answer that an error is about: aiohttp's, httpx's, botocore's."""
    response: Any = getattr(error, "response", None)
    headers: Any = getattr(error, "headers", None) or getattr(response, "headers", None)
    if isinstance(response, Mapping):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    return headers if isinstance(headers, Mapping) else {}


def words_of(error: BaseException) -> str:
    """A driver's error in a line."""
    message = getattr(error, "message", None)
    status = status_of(error)
    text = f"{status} {message}" if status and message else str(error)
    return without_secrets(" ".join(f"{type(error).__name__}: {text}".split()))[:300]


def not_installed(url: str, error: ImportError) -> UnsupportedError:
    """Which extra brings the driver of a URL."""
    protocol = url.partition(":")[0].lower()
    hint = extra(_EXTRAS[protocol]) if protocol in _EXTRAS else str(error)
    return UnsupportedError(
        f"{url}: reading {protocol}:// needs a driver that is not installed: {hint}"
    )
