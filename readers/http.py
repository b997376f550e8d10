"""Ranges of one file over HTTP (RFC 9110, section 14), with one request each.

A range answers everything at once: the bytes, how large the file is (`Content-Range`) and which
version of it (`ETag`, else `Last-Modified`), so that nothing is asked beforehand, and a file that
changes is noticed with the first byte of its new version. Where a redirect led is remembered, and
asked directly from then on, until that address is refused (a signature that expired).

Passwords and tokens go to the server that the URL names, not to where it redirects to. Sessions are
those of fsspec's file system for HTTP, with its settings; only its public interface is used.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from anamnesis.errors import IntegrityError, UnsupportedError, without_secrets
from anamnesis.limits import KiB
from anamnesis.readers import hub, retry
from anamnesis.readers.retry import CutShort

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_REFUSED = frozenset((400, 401, 403, 404, 410))  # by an address that was good once
_HOPS = 8
_RENEWALS = 2  # of an address that is refused at once
_KEPT = 4096  # addresses that are remembered
BUFFER_BYTES = 256 * KiB  # of a connection
_SECRET_HEADERS = frozenset(("authorization", "cookie", "proxy-authorization"))
_RANGE = re.compile(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", re.ASCII | re.IGNORECASE)
_EMPTY = re.compile(r"\s*bytes\s+\*/0\s*", re.ASCII | re.IGNORECASE)
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class Answer(NamedTuple):
    """What a server says of a file: its size, and what it calls the version ("": nothing)."""

    size: int
    version: str


class _Address(NamedTuple):
    """Where redirects led, the version that they named, and that of the answer there."""

    url: str
    version: str
    there: str


_addresses: OrderedDict[str, _Address] = OrderedDict()
_lock = threading.Lock()


class HttpOrigin:
    """A file behind an `http://` or `https://` URL, or of a hub."""

    def __init__(self, url: str, fs: Any) -> None:
        """`fs` is fsspec's file system for HTTP."""
        self.url, self._fs = url, fs
        # Secrets of a whole session go where aiohttp lets them go.
        own = {"auth", "headers", "cookies"} & set(fs.client_kwargs)
        self._by_hand = not own

    # What a hub has of its own.

    def _target(self) -> str:
        return self.url

    def _secrets(self) -> Mapping[str, str]:
        return {}

    def _named(self, headers: Mapping[str, str]) -> str:
        """The version that an answer of the server itself names, a redirect's too; "": none."""
        return ""

    def now(self) -> None:
        """None: every answer names the version, where the server does at all."""

    def identify(self, first_bytes: int) -> tuple[Answer, bytes]:
        """Size and version, and the first bytes of the file, at most so many."""
        head = bytearray(first_bytes)
        answer, count = retry.call_on(
            self._fs.loop, self.url, lambda: self._get(0, None, memoryview(head)), first_bytes
        )
        return answer, bytes(head[:count])

    def read_into(self, start: int, view: memoryview, size: int) -> str:
        """Fill `view` from byte `start` of a file of `size` bytes; returns the version.

        What came before a connection broke is kept, and the next attempt goes on behind it.
        """
        done = 0
        version = ""

        async def go_on() -> None:
            nonlocal done, version

            def landed(count: int) -> None:
                nonlocal done
                done += count

            first = start + done
            answer, _ = await self._get(first, size, view[done:], landed)
            if version and answer.version != version:
                raise changed(self.url)
            version = answer.version

        retry.call_on(self._fs.loop, self.url, go_on, len(view))
        return version

    async def _get(
        self, start: int, size: int | None, view: memoryview, landed: Any = None
    ) -> tuple[Answer, int]:
        """One range into `view`; without a `size`, as much of the file as it takes."""
        response, named = await self._follow({"Range": f"bytes={start}-{start + len(view) - 1}"})
        try:
            answer, count = await self._announced(response, start, size, len(view))
            count = await _receive(response, view[:count], landed)
        finally:
            response.close() if not response.content.at_eof() else response.release()
        there = answer.version
        return Answer(answer.size, self._version(response, named, there)), count

    async def _announced(
        self, response: Any, start: int, size: int | None, want: int
    ) -> tuple[Answer, int]:
        """What an answer says of the file, and how many of the bytes that were asked for follow."""
        headers = response.headers
        version = str(headers.get("ETag") or headers.get("Last-Modified") or "")
        found = str(headers.get("Content-Range", ""))
        if response.status == 416 and start == 0 and _EMPTY.fullmatch(found):
            return Answer(0, version), 0
        response.raise_for_status()
        if response.status == 206:
            match = _RANGE.fullmatch(found)
            total = int(match[3]) if match and match[3] != "*" else size
            if match is not None and total is None:
                total = await self._length()
            last = min(start + want, total or 0) - 1
            if match is None or (int(match[1]), int(match[2])) != (start, last):
                raise IntegrityError(
                    f"{self.url}: bytes {start:,} to {max(last, start):,} were asked for; the "
                    f"answer says it is {found!r:.100} (Content-Range)"
                )
            if size is not None and total != size:
                raise changed(self.url, f"size {size:,} -> {total:,} bytes")
            return Answer(total or 0, version), last + 1 - start
        length = self._said(headers)
        if start or length > want:
            raise UnsupportedError(
                f"{self.url}: the server does not serve ranges of it; download the file first"
            )
        if size is not None and length != size:
            raise changed(self.url, f"size {size:,} -> {length:,} bytes")
        return Answer(length, version), length

    def _said(self, headers: Mapping[str, str]) -> int:
        length = str(headers.get("Content-Length", ""))
        if not (length.isascii() and length.isdigit()):
            raise UnsupportedError(
                f"{self.url}: the server does not say how large it is; download the file first"
            )
        return int(length)

    async def _length(self) -> int:
        """The size, from a server that does not tell it with a range."""
        response, _ = await self._follow({}, "HEAD")
        try:
            response.raise_for_status()
            return self._said(response.headers)
        finally:
            response.close()

    async def _follow(self, asked: Mapping[str, str], method: str = "GET") -> tuple[Any, str]:
        """The answer at the end of redirects, and the version that they named."""
        target = self._target()
        with _lock:
            known = _addresses.get(target)
        if known is not None:
            response = await self._ask(method, known.url, asked)
            if response.status not in _REFUSED | _REDIRECTS:
                return response, known.version
            await _discard(response)
            with _lock:
                _addresses.pop(target, None)
        for again in range(_RENEWALS, -1, -1):
            url, response, named = await self._resolve(method, target, asked)
            if url == target or response.status not in _REFUSED or not again:
                break
            await _discard(response)  # expired on the way: the server makes another
        return response, named

    async def _resolve(
        self, method: str, url: str, asked: Mapping[str, str]
    ) -> tuple[str, Any, str]:
        """Where redirects lead from the server's own address, the answer there, and the version."""
        named = ""
        for _ in range(_HOPS):
            response = await self._ask(method, url, asked)
            named = named or (self._named(response.headers) if response.status < 400 else "")
            if response.status not in _REDIRECTS:
                return url, response, named
            onwards = response.headers.get("Location", "")
            await _discard(response)
            url = urljoin(url, onwards)
            if urlsplit(url).scheme not in ("http", "https"):
                raise OSError(f"a redirect to {without_secrets(url)[:300]}, which is no HTTP")
        raise OSError(f"more than {_HOPS} redirects")

    async def _ask(self, method: str, url: str, asked: Mapping[str, str]) -> Any:
        import aiohttp  # noqa: PLC0415 - for URLs alone

        settings = dict(self._fs.kwargs)
        headers = {**settings.pop("headers", {}), **self._secrets(), **asked}
        headers["Accept-Encoding"] = "identity"
        if urlsplit(url)[:2] != urlsplit(self._target())[:2]:
            settings.pop("auth", None)
            headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET_HEADERS}
        stall = retry.STALL_SECONDS
        patience = aiohttp.ClientTimeout(total=None, connect=stall, sock_read=stall)
        settings.setdefault("timeout", patience)
        settings.setdefault("read_bufsize", BUFFER_BYTES)
        session = await self._fs.set_session()
        where = self._fs.encode_url(url)
        return await session.request(
            method, where, headers=headers, allow_redirects=not self._by_hand, **settings
        )

    def _version(self, response: Any, named: str, there: str) -> str:
        """The version of an answer; remembers where it came from when that was elsewhere."""
        target, url = self._target(), str(response.url)
        with _lock:
            known = _addresses.get(target)
            if known is not None and known.url == url:
                _addresses.move_to_end(target)
                if known.there != there:
                    raise changed(self.url)
            elif self._by_hand and urlsplit(url)[1:4] != urlsplit(target)[1:4]:
                _addresses[target] = _Address(url, named, there)
                while len(_addresses) > _KEPT:
                    _addresses.popitem(last=False)
        return named or there


class HubOrigin(HttpOrigin):
    """A file of a repository at a commit."""

    def __init__(self, place: hub.Place, fs: Any) -> None:
        super().__init__(place.url, fs)
        self._place = place
        self._at = hub.target(place)

    def _target(self) -> str:
        return self._at

    def _secrets(self) -> Mapping[str, str]:
        return hub.secrets(self._place)

    def _named(self, headers: Mapping[str, str]) -> str:
        """The digest of the content, which the hub names with the commit when it redirects."""
        commit = headers.get("X-Repo-Commit", "")
        if commit and commit != self._place.revision:
            raise IntegrityError(
                f"{self.url}: is asked for at commit {self._place.revision}; the hub answers with "
                f"that of {commit:.80}"
            )
        text = str(headers.get("X-Linked-Etag") or headers.get("ETag") or "")
        digest = text.removeprefix("W/").strip('"')
        return digest if _DIGEST.fullmatch(digest) else ""


async def _receive(response: Any, view: memoryview, landed: Any) -> int:
    """The body into `view`; CutShort when it is less, and what would be more is not taken."""
    done = 0
    async for chunk in response.content.iter_any():
        part = chunk[: len(view) - done]
        view[done : done + len(part)] = part
        done += len(part)
        if landed is not None:
            landed(len(part))
        if done == len(view):
            break
    if done < len(view):
        raise CutShort(f"{response.url}: {done:,} bytes came where {len(view):,} were announced")
    return done


async def _discard(response: Any) -> None:
    """Let go of an answer, and keep its connection when what it says is short."""
    length = str(response.headers.get("Content-Length", ""))
    if length.isdigit() and int(length[:9]) <= BUFFER_BYTES:
        await response.read()
    response.close()


def changed(url: str, how: str = "another version of the same size") -> IntegrityError:
    """The error for a file that is not what it was."""
    return IntegrityError(f"{url}: changed while it was read ({how})")
