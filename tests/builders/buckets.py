"""An S3 server on loopback (moto, in a process of its own), and a proxy that breaks things."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "moto-secret-that-shows-nowhere",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def s3_server(host: str = "127.0.0.1", part_bytes: int = 5 << 20) -> Iterator[str]:
    """The endpoint of a server that runs as long as the block; no part but the last is smaller."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed (extra test)")
    _describe_once()
    port = free_port()
    # moto's own command; a server in another process, so that nothing passes by memory.
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    environment = {**os.environ, "S3_UPLOAD_PART_MIN_SIZE": str(part_bytes)}
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        address = "127.0.0.1" if host == "0.0.0.0" else host
        while server.poll() is None:
            try:
                socket.create_connection((address, port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://{address}:{port}"
    finally:
        server.kill()
        server.wait()


class Objects(Protocol):
    """What a test looks into a store of any kind with."""

    def objects(self) -> list[str]: ...

    def read(self, key: str, /) -> bytes: ...


def model_in(folder: Path) -> Path:
    """A model in a new folder: 20 MB of float32 in tensors whose edges lie inside of parts."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(5)
    shapes = [(1500, 1001), (7,), (900, 999), (1, 3), (2000, 1024), (0, 4)]
    tensors = {
        f"layer.{number}.weight": rng.standard_normal(shape).astype(np.float32)
        for number, shape in enumerate(shapes)
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


def local(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name, without those that a run keeps for itself."""
    found = (p for p in folder.rglob("*") if p.is_file() and "anamnesis" not in p.name)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def remote(bucket: Objects, prefix: str = "out/") -> dict[str, bytes]:
    """The objects below a prefix as `local` has files."""
    keys = [key for key in bucket.objects() if key.startswith(prefix) and "anamnesis" not in key]
    return {key.removeprefix(prefix): bucket.read(key) for key in keys}


@cache
def _describe_once() -> None:
    """Keep what botocore reads of its services, for clients that nearly every test makes anew."""
    from botocore import session

    session.create_loader = cache(session.create_loader)


class Bucket:
    """A client for a test to look with, by the server's own protocol."""

    def __init__(self, endpoint: str, name: str) -> None:
        from botocore.session import Session

        self.name = name
        self.client: Any = Session().create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        self.client.create_bucket(Bucket=name)

    def objects(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return sorted(entry["Key"] for entry in found)

    def read(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def uploads(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [entry["Key"] for entry in found]


class Faults:
    """What the proxy does to a request: `rules` are (method and path pattern, fault, how often)."""

    ordered = True  # one request at a time is looked at

    def __init__(self) -> None:
        self.rules: list[list[Any]] = []
        self.seen: list[str] = []

    def add(self, pattern: str, fault: str, times: int = 1) -> None:
        """`fault`: cut (the answer), drop, lost-answer, or what `_ERRORS` has an answer for."""
        self.rules.append([re.compile(pattern), fault, times])

    def take(self, line: str) -> str:
        self.seen.append(line)
        for rule in self.rules:
            if rule[2] and rule[0].search(line):
                rule[2] -= 1
                return str(rule[1])
        return ""

    def judge(self, headers: Mapping[str, str]) -> str:
        """A fault that a request's headers deserve."""
        return ""


def billed(line: str) -> str:
    """What a request counts as on a bill: get, put (with listings), or "" for what is removed."""
    method, _, url = line.partition(" ")
    lists = ("list-type=", "uploads", "uploadId=", "comp=list", "comp=blocklist", "/o?")
    if method in ("GET", "HEAD"):
        return "put" if any(word in url for word in lists) else "get"
    return "" if method == "DELETE" else "put"


_ERRORS = {
    "slow-down": (503, "SlowDown", "Please reduce your request rate."),
    "server-error": (500, "InternalError", "We encountered an internal error."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "precondition": (412, "PreconditionFailed", "At least one of the pre-conditions did not hold"),
    "conflict": (409, "ConditionalRequestConflict", "The conditional request cannot succeed now."),
    "skewed": (403, "RequestTimeTooSkewed", "The difference between the times is too large."),
}


@contextmanager
def faulty(endpoint: str, faults: Faults, host: str = "127.0.0.1") -> Iterator[str]:
    """A proxy in front of a server, which does to requests what `faults` says."""
    target = endpoint.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        lock: ClassVar[threading.Lock] = threading.Lock()

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with self.lock if faults.ordered else nullcontext():
                fault = faults.take(f"{self.command} {self.path}") or faults.judge(self.headers)
            if fault in _ERRORS:
                status, code, text = _ERRORS[fault]
                now = datetime.now(UTC)
                self.answer(
                    status,
                    [("Date", format_datetime(now, usegmt=True))],
                    f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode(),
                )
                return
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            upstream = HTTPConnection(target, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if fault == "lost-answer":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.answer(answer.status, answer.getheaders(), data, cut=fault == "cut")

        def answer(
            self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False
        ) -> None:
            self.send_response_only(status)
            hop = ("transfer-encoding", "connection", "content-length")
            given = [(k, v) for k, v in headers if k.lower() not in hop]
            length = next((v for k, v in headers if k.lower() == "content-length"), None)
            for key, value in given:
                self.send_header(key, value)
            head = self.command == "HEAD" and length
            self.send_header("Content-Length", str(length if head else len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *args: object) -> None:
            pass

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server((host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def files_in_memory(prefix: str) -> dict[str, bytes]:
    """What lies below `prefix` of fsspec's file system in memory, without manifests."""
    import fsspec

    return {
        name.removeprefix(prefix): file.getvalue()
        for name, file in fsspec.filesystem("memory").store.items()
        if name.startswith(prefix) and "anamnesis" not in name
    }


def forget_clients() -> None:
    """Have clients made again, with the endpoint of this test."""
    import fsspec

    from anamnesis.writers import stores

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    stores.forget()
