"""Servers that answer with another range, stop sending or say nothing; URLs that mean nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import serving

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.readers import http, retry

MIB = 1 << 20
CLI = [sys.executable, "-m", "anamnesis"]


@dataclass
class Server:
    """One file; `say` changes the text of Content-Range, `stop_at` is where bodies end early."""

    data: bytes = b""
    say: str = "bytes {first}-{last}/{size}"
    shift: int = 0  # of the bytes that are sent
    stop_at: int = 1 << 62
    silent: bool = False
    url: str = ""
    onwards: str = ""  # where the file is said to be
    asked: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Server
    released: threading.Event

    def _is_absent(self) -> bool:
        if self.path == "/m.safetensors":
            return False
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def do_HEAD(self) -> None:
        if self._is_absent():
            return
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(self.served.data)))
        self.end_headers()

    def do_GET(self) -> None:
        server = self.served
        if self._is_absent():
            return
        server.asked += 1
        if server.onwards:
            self.send_response(302)
            self.send_header("Location", server.onwards)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if server.silent:
            self.released.wait()
        first, last = (int(match[1]), int(match[2])) if match else (0, len(server.data) - 1)
        last = min(last, len(server.data) - 1)
        body = server.data[first + server.shift : last + 1 + server.shift]
        self.send_response(206 if match else 200)
        text = server.say.format(first=first, last=last, size=len(server.data))
        if match and text:
            self.send_header("Content-Range", text)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(body[: max(0, server.stop_at - first)])
        if len(body) > server.stop_at - first:
            self.wfile.flush()
            self.released.wait()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(fp8_model: Path) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    served, released = Server(fp8_model.read_bytes()), threading.Event()
    handler = type("Handler", (_Handler,), {"served": served, "released": released})
    with serving(handler) as url:
        served.url = f"{url}/m.safetensors"
        yield served
        released.set()


OTHERS = {
    "none": "",
    "another start": "bytes 1-{last}/{size}",
    "another end": "bytes {first}-0/{size}",
    "another size": "bytes {first}-{last}/1",
    "another unit": "items {first}-{last}/{size}",
    "no range": "bytes */{size}",
    "words": "all of it",
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_range_than_was_asked_for(what: str, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    server.say, server.shift = OTHERS[what], 1
    with pytest.raises(IntegrityError, match="Content-Range") as caught:
        anamnesis.remember(server.url, out)
    assert server.url in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_a_size_that_the_server_does_not_know(server: Server) -> None:
    server.say = "bytes {first}-{last}/*"
    assert anamnesis.inspect(server.url).tensors == 6


@pytest.mark.parametrize("onwards", ["file:///etc/hostname", "ftp://host/m", "http://[::1"])
def test_a_redirect_to_what_is_no_http(server: Server, onwards: str) -> None:
    """No file of this machine is read, and the server is not asked again for the same answer."""
    server.onwards = onwards
    with pytest.raises(OSError, match=r"is no HTTP|Invalid"):
        anamnesis.inspect(server.url)
    assert server.asked == 1


@pytest.mark.parametrize("silent", [True, False], ids=["says nothing", "stops in a body"])
def test_a_server_that_stops_ends_within_the_stated_time(
    silent: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three attempts of STALL_SECONDS each; docs/inputs.md says what that comes to."""
    monkeypatch.setattr(retry, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.0)
    server.silent, server.stop_at = silent, 3 * MIB
    with pytest.raises(OSError, match=r"[Tt]imeout|no answer") as caught:  # else it never ends
        anamnesis.remember(server.url, tmp_path / "out.safetensors", executor="serial")
    assert caught.value.filename == server.url
    assert not list(tmp_path.glob("*out*"))


def test_the_time_is_the_one_that_the_pages_state() -> None:
    pauses = sum(retry.PAUSE_SECONDS * 2**n for n in range(retry.STALLS - 1))
    assert 90 < retry.STALLS * retry.STALL_SECONDS + pauses < 95


@pytest.mark.parametrize("silent", [True, False], ids=["says nothing", "stops in a body"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_sigterm_ends_a_run_that_waits_for_a_server(
    silent: bool, threads: str, server: Server, tmp_path: Path
) -> None:
    server.silent, server.stop_at = silent, 3 * MIB
    out = tmp_path / "o" / "out.safetensors"
    command = [*CLI, "remember", server.url, "-o", str(out), "--threads", threads]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)  # it would wait for over 90 s by itself
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not out.parent.exists()


def test_a_bug_of_ours_behind_a_url_is_none_of_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("no")

    broken.__globals__["__name__"] = "anamnesis.readers.http"
    monkeypatch.setattr(http.HttpOrigin, "_announced", broken)
    try:
        with pytest.raises(KeyError):
            anamnesis.inspect(server.url)
    finally:
        broken.__globals__["__name__"] = __name__


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("zip://x.safetensors::{file}", FormatError, "not a zip file"),
        ("zip://a::zip://b::{file}", FormatError, "not a zip file"),
        ("tar://x.safetensors::{file}", FormatError, "ReadError"),
        ("zip://x.zip", UsageError, "names no archive; write zip://MEMBER::x.zip"),
        ("tar://", UsageError, "names no archive; write tar://MEMBER::ARCHIVE"),
        ("nowhere://x/y", UsageError, "Protocol not known: nowhere"),
        ("simplecache::nowhere://x", UsageError, "Protocol not known: nowhere"),
        ("dir://x", UsageError, "dir://x"),
        ("reference://x", UsageError, "reference://x"),
        ("generic://x", UsageError, "generic://x"),
        ("data://x", OSError, "data://x"),
        ("http://127.0.0.1:99999/x", OSError, "99999"),
        ("http://[::1/x.safetensors", OSError, "Invalid IPv6"),
    ],
)
def test_urls_that_mean_nothing(
    url: str, error: type[Exception], text: str, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    path = tmp_path / "x"
    path.write_bytes(np.arange(2000, dtype=np.int16).tobytes())
    with pytest.raises(error, match=re.escape(text)):
        anamnesis.inspect(url.format(file=path))
