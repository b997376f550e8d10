"""A small hub on this machine: the routes of huggingface.co, a CDN, plain files, and their faults.

Routes (https://huggingface.co/docs/hub/api, and what huggingface_hub 1 to 2 asks for):

    /api/models/ORG/NAME[/revision/REV]      commit, and with `blobs=true` size and digests of files
    /api/models/ORG/NAME/tree/REV            files
    /ORG/NAME/resolve/REV/FILE               the file, or a redirect with X-Repo-Commit,
                                             X-Linked-Etag and X-Linked-Size where it is large
    /cdn/DIGEST?Expires=N&Signature=S        what redirects lead to; refused when N is over
    /FILE                                    the same files without a hub

Bodies are served in ranges, `latency` seconds after a request came, at `bandwidth` bytes a second
for all connections together and `each` for one (0: as fast as it goes). It runs in a thread of its
own (`running`), or as a process that serves the files of a folder:

    python tests/builders/hub.py FOLDER [LATENCY [BANDWIDTH [EACH]]]
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

MODEL = "org/model"
LARGE_BYTES = 10_000  # from here on a file is behind a redirect
CHUNK_BYTES = 1 << 17


@dataclass
class Request:
    """One as it came; `start` and `stop` are those of its range, of the whole file without."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    start: int = 0
    stop: int = -1


@dataclass
class Hub:
    """Files by name, how they are served, and what was asked for.

    `fault(request)` may name one for a request: a status (`"503"`, with `retry_after`), `"reset"`
    (nothing comes), `"cut"` (half of the body, and the end of the connection), `"loris"` (a byte
    now and then), `"short"` (a smaller range than was asked for). `tokens`: those that may read;
    of a `gated` model anybody may read the list of files.
    """

    files: dict[str, Any] = field(default_factory=dict)  # bytes, or a path
    latency: float = 0.0
    bandwidth: float = 0.0
    each: float = 0.0
    commit: str = "c0ffee" + "0" * 34
    branches: dict[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    gated: bool = False
    redirects: bool = True
    epoch: int = 1  # redirects made before it are expired
    versions: dict[str, str] = field(default_factory=dict)  # another digest than the content's
    fault: Callable[[Request], str | None] = lambda request: None
    retry_after: str = ""
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    most: int = 0  # requests that were answered at the same time
    _busy: int = 0
    _free_at: float = 0.0
    _known: dict[int, str] = field(default_factory=dict)

    def size(self, name: str) -> int:
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else Path(content).stat().st_size

    def part(self, name: str, start: int, stop: int) -> bytes:
        content = self.files[name]
        if isinstance(content, bytes):
            return content[start:stop]
        with Path(content).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def digest(self, name: str) -> str:
        """What the hub calls the version of a file: SHA-256 when it is large, else a Git blob's."""
        if name in self.versions:
            return self.versions[name]
        content = self.files[name]
        if not isinstance(content, bytes):
            return hashlib.sha256(f"{name}{self.size(name)}".encode()).hexdigest()
        if id(content) not in self._known:
            made = hashlib.sha256(content).hexdigest()
            self._known[id(content)] = made if len(content) >= LARGE_BYTES else made[:40]
        return self._known[id(content)]

    def asked(self, text: str) -> list[Request]:
        """The requests whose path has `text`."""
        return [request for request in self.requests if text in request.path]

    # --- answers

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        path, _, query = target.partition("?")
        headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in head[1:] if h)}
        values = {k: v[0] for k, v in parse_qs(query).items()}
        request = Request(method, unquote(path).lstrip("/"), values, headers)
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            request.start, request.stop = int(match[1]), int(match[2]) + 1
        self.requests.append(request)
        self._busy += 1
        self.most = max(self.most, self._busy)
        try:
            await asyncio.sleep(self.latency)
            return await self._answer(request, writer)
        finally:
            self._busy -= 1

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        fault = self.fault(request)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault and fault.isdigit():
            more = {"Retry-After": self.retry_after} if self.retry_after else {}
            return await self._say(writer, int(fault), more)
        path = request.path
        if path.startswith("api/models/"):
            return await self._api(request, writer)
        if match := re.fullmatch(rf"{MODEL}/resolve/([^/]+)/(.+)", path):
            return await self._resolve(request, match[1], match[2], writer)
        if path.startswith("cdn/"):
            if request.query.get("Expires") != str(self.epoch):
                return await self._say(writer, 403, {})
            names = {self.digest(name): name for name in self.files}
            return await self._file(request, names.get(path[4:], ""), writer, fault, {})
        return await self._file(request, path, writer, fault, {})

    def _commit(self, revision: str) -> str | None:
        known = {"main": self.commit, self.commit: self.commit, **self.branches}
        return known.get(revision)

    def _may(self, request: Request) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return not self.tokens or token in self.tokens

    async def _api(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        match = re.fullmatch(rf"api/models/{MODEL}(?:/(revision|tree)/([^/]+).*)?", request.path)
        if not (self._may(request) or self.gated) or match is None:
            more = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            return await self._say(writer, 401, more)
        commit = self._commit(match[2] or "main")
        if commit is None:
            return await self._say(writer, 404, {"X-Error-Code": "RevisionNotFound"})
        rows = [self._row(name) for name in self.files]
        if match[1] == "tree":
            tree = [{"type": "file", "path": r["rfilename"], "oid": r["blobId"], **r} for r in rows]
            return await self._say(writer, 200, {}, json.dumps(tree).encode())
        body = {"id": MODEL, "modelId": MODEL, "sha": commit, "siblings": rows, "private": False}
        return await self._say(writer, 200, {}, json.dumps(body).encode())

    def _row(self, name: str) -> dict[str, Any]:
        digest, size = self.digest(name), self.size(name)
        row: dict[str, Any] = {"rfilename": name, "size": size, "blobId": digest[:40]}
        if size >= LARGE_BYTES:
            row["lfs"] = {"sha256": digest, "oid": digest, "size": size, "pointerSize": 134}
        return row

    async def _resolve(
        self, request: Request, revision: str, name: str, writer: asyncio.StreamWriter
    ) -> bool:
        if not self._may(request):
            known, code = "authorization" in request.headers, "RepoNotFound"
            code = "GatedRepo" if self.gated else code
            return await self._say(writer, 403 if known else 401, {"X-Error-Code": code})
        if name not in self.files or self._commit(revision) is None:
            return await self._say(writer, 404, {"X-Error-Code": "EntryNotFound"})
        digest = self.digest(name)
        more = {"X-Repo-Commit": self._commit(revision) or ""}
        if self.size(name) < LARGE_BYTES or not self.redirects:
            return await self._file(request, name, writer, self.fault(request), more)
        more |= {"X-Linked-Size": str(self.size(name)), "X-Linked-Etag": f'"{digest}"'}
        elsewhere = self.url.replace("127.0.0.1", "localhost")
        where = f"{elsewhere}/cdn/{quote(digest)}?Expires={self.epoch}&Signature=s3cr3t"
        return await self._say(writer, 302, {**more, "Location": where})

    async def _file(
        self,
        request: Request,
        name: str,
        writer: asyncio.StreamWriter,
        fault: str | None,
        more: dict[str, str],
    ) -> bool:
        if name not in self.files:
            return await self._say(writer, 404, {})
        size = self.size(name)
        more = {"ETag": f'"{self.digest(name)}"', "Accept-Ranges": "bytes", **more}
        start, stop, status = 0, size, 200
        if request.stop >= 0:
            start, stop, status = request.start, min(request.stop, size), 206
            if start >= size:
                return await self._say(writer, 416, {"Content-Range": f"bytes */{size}"})
            if fault == "short":
                stop = (start + stop) // 2
            more["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._head(writer, status, {**more, "Content-Length": str(stop - start)})
        if request.method == "HEAD":
            return True
        if fault == "cut":
            stop = (start + stop) // 2
        await self._send(writer, name, start, stop, fault == "loris")
        if fault == "cut":
            writer.transport.abort()
            return False
        return True

    async def _send(
        self, writer: asyncio.StreamWriter, name: str, start: int, stop: int, slowly: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        step = 1 if slowly else CHUNK_BYTES
        free_at = loop.time()
        for at in range(start, stop, step):
            part = self.part(name, at, min(at + step, stop))
            now = loop.time()
            if self.bandwidth:
                self._free_at = max(self._free_at, now) + len(part) / self.bandwidth
                free_at = max(free_at, self._free_at)
            if self.each:
                free_at = max(free_at + len(part) / self.each, now)
            writer.write(part)
            self.sent += len(part)
            await writer.drain()
            if slowly:
                await asyncio.sleep(0.05)
            elif free_at > loop.time():
                await asyncio.sleep(free_at - loop.time())

    async def _say(
        self, writer: asyncio.StreamWriter, status: int, more: dict[str, str], body: bytes = b""
    ) -> bool:
        kind = {"Content-Type": "application/json"} if body else {}
        self._head(writer, status, {**kind, **more, "Content-Length": str(len(body))})
        writer.write(body)
        await writer.drain()
        return True

    @staticmethod
    def _head(writer: asyncio.StreamWriter, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {text}" for name, text in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


async def _serve(hub: Hub, ready: Callable[[], object], until: asyncio.Event) -> None:
    server = await asyncio.start_server(hub.talk, "127.0.0.1", 0)
    hub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ready()
    await until.wait()
    server.close()
    for _ in range(10):  # also who was let in just now
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.005)  # in which transports close


@contextlib.contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve in a thread while this lasts."""
    loop, ready, until = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(_serve(hub, ready.set, until))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(until.set)
        thread.join(10)


@contextlib.contextmanager
def served(monkeypatch: Any) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for its own, with nobody's token."""
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with running(Hub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def main(folder: str, *numbers: str) -> None:
    """Serve the files of a folder until the input ends; prints the URL."""
    root = Path(folder)
    found = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}
    small = {name: path.read_bytes() if path.stat().st_size < LARGE_BYTES else path
             for name, path in found.items()}  # fmt: skip
    hub = Hub(small, *map(float, numbers))
    with running(hub):
        print(hub.url, flush=True)
        for line in sys.stdin:
            latency, bandwidth, each = map(float, line.split())
            hub.latency, hub.bandwidth, hub.each = latency, bandwidth, each
            print(len(hub.requests), hub.sent, hub.most, flush=True)
            hub.requests.clear()
            hub.sent = hub.most = 0


if __name__ == "__main__":
    main(*sys.argv[1:])
