"""Models behind URLs: a local HTTP server that counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from http_server import serving

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, LimitError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import retry
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.source import open_source

MIB = 1 << 20


@dataclass
class Server:
    """Files by name, and how to serve them; counts requests and bytes of bodies."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    say_none: bool = False
    tell_size: bool = True
    etag: str = '"1"'
    fail_next: int = 0
    cut: bool = False
    deny: tuple[str, ...] = ()
    requests: list[str] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, name = self.served, self.path.lstrip("/").partition("?")[0]
        wanted = self.headers.get("Range", "")
        server.requests.append(f"{self.command} {name} {wanted}".strip())
        if name in server.deny:
            return self._status(403)
        if name not in server.files:
            return self._status(404)
        if body and server.fail_next:
            server.fail_next -= 1
            return self._status(503)
        data = server.files[name]
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        part = bool(match and server.ranges)
        chosen = data[int(match[1]) : int(match[2]) + 1] if match and server.ranges else data
        self.send_response(206 if part else 200)
        if part and match:
            end = int(match[1]) + len(chosen) - 1
            size = len(data) if server.tell_size else "*"
            self.send_header("Content-Range", f"bytes {match[1]}-{end}/{size}")
        if server.say_none:
            self.send_header("Accept-Ranges", "none")
        self.send_header("ETag", server.etag)
        if server.cut and part:
            chosen = chosen[: len(chosen) // 2]
        if server.tell_size or part:
            self.send_header("Content-Length", str(len(chosen)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body:
            try:
                for at in range(0, len(chosen), 1 << 16):
                    server.sent += self.wfile.write(chosen[at : at + (1 << 16)])
            except OSError:
                self.close_connection = True
        return None

    def _status(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    served = Server()
    handler = type("Handler", (_Handler,), {"served": served})
    with serving(handler) as served.url:
        yield served


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.0)


def test_inspect_reads_headers_alone(server: Server, fp8_model: Path, sample: Path) -> None:
    for path in (fp8_model, sample):
        server.files = {path.name: path.read_bytes()}
        server.requests.clear()
        server.sent = 0
        here = anamnesis.inspect(path).to_dict(entries=True)
        there = anamnesis.inspect(f"{server.url}/{path.name}").to_dict(entries=True)
        assert here.pop("path") != there.pop("path")
        assert here == there
        assert server.sent <= MIB
        of_model = [r for r in server.requests if path.name in r]
        assert len(of_model) <= 2
        assert all("bytes=" in r for r in of_model if r.startswith("GET"))
    assert fp8_model.stat().st_size > 10 * MIB


def test_a_header_of_megabytes_takes_few_requests(
    server: Server, tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    entries = {f"layer.{i:05}.{'x' * 100}": ("F32", (1,), bytes(4)) for i in range(20_000)}
    path = write_safetensors(tmp_path / "m.safetensors", entries)
    server.files = {path.name: path.read_bytes()}
    model = load_model(f"{server.url}/m.safetensors")
    assert len(model.tensors) == 20_000
    assert len([r for r in server.requests if "m.safetensors" in r]) <= 6


@pytest.mark.parametrize("threads", [1, 2])
def test_remember_gives_the_bytes_of_a_local_run(
    server: Server, fp8_model: Path, tmp_path: Path, threads: int
) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    anamnesis.remember(fp8_model, tmp_path / "here.safetensors")
    url = f"{server.url}/m.safetensors?download=true"
    anamnesis.remember(url, tmp_path / "there.safetensors", threads=threads)
    here, there = (tmp_path / f"{n}.safetensors" for n in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    assert anamnesis.verify(there)["tensors"] == 6


def test_secrets_of_a_url_stay_out_of_the_manifest(
    server: Server, sample: Path, tmp_path: Path
) -> None:
    server.files = {"m.gguf": sample.read_bytes()}
    url = server.url.replace("://", "://me:pass@") + "/m.gguf?X-Signature=secret"
    anamnesis.remember(url, tmp_path / "out.safetensors")
    text = (tmp_path / "out.safetensors.anamnesis.json").read_text()
    assert json.loads(text)["inputs"][0][0] == f"{server.url}/m.gguf"
    assert "secret" not in text
    assert "pass@" not in text


def test_windows_are_fetched_ahead(server: Server) -> None:
    data = np.random.default_rng(1).bytes(12 * MIB)
    server.files = {"m": data}
    with open_source(f"{server.url}/m") as file:
        got = b"".join(file.read(at, MIB // 4) for at in range(0, len(data), MIB // 4))
        assert got == data
        fetched = len(server.requests) - 1
        assert fetched <= 6
        assert file.read(5, 10) == data[5:15]
        assert file.read(len(data) - 7, 7) == data[-7:]
        assert server.sent < len(data) + 3 * 64 * 1024
        with pytest.raises(IntegrityError, match="12,582,912 bytes"):
            file.read(len(data) - 7, 8)


def test_shards_by_their_index(server: Server, shards: dict[str, bytes]) -> None:
    server.files = shards
    found = anamnesis.inspect(f"{server.url}/")
    assert {n: s.tensors for n, s in found.schemes.items()} == {"fp8-tensor": 1, "passthrough": 1}
    named = anamnesis.inspect(f"{server.url}/model.safetensors.index.json")
    assert named.schemes == found.schemes
    assert server.sent < 6 * MIB
    del server.files["m-2.safetensors"]
    with pytest.raises(FormatError, match=r"m-2.safetensors: is missing; .*index.json names it"):
        anamnesis.inspect(f"{server.url}/")


def test_a_folder_without_index_is_one_file(server: Server, fp8_model: Path) -> None:
    server.files = {"model.safetensors": fp8_model.read_bytes()}
    assert anamnesis.inspect(f"{server.url}/").tensors == 6


def test_the_config_beside_a_file_is_read(server: Server, fp8_model: Path) -> None:
    server.files = {"d/m.safetensors": fp8_model.read_bytes(), "d/config.json": b"["}
    with pytest.raises(FormatError, match=r"d/config\.json"):
        anamnesis.inspect(f"{server.url}/d/m.safetensors")
    server.deny = ("d/config.json",)
    assert anamnesis.inspect(f"{server.url}/d/m.safetensors").tensors == 6


@pytest.mark.parametrize("say_none", [False, True])
@pytest.mark.parametrize("command", ["inspect", "remember"])
def test_a_server_without_ranges(
    server: Server, fp8_model: Path, tmp_path: Path, say_none: bool, command: str
) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    server.ranges, server.say_none = False, say_none
    url = f"{server.url}/m.safetensors"
    run: Callable[[str], object] = anamnesis.inspect
    if command == "remember":
        run = partial(anamnesis.remember, out=tmp_path / "out.safetensors")
    with pytest.raises(UnsupportedError, match="does not serve ranges of it; download") as caught:
        run(url)
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)
    assert server.sent < fp8_model.stat().st_size / 2
    assert not (tmp_path / "out.safetensors").exists()


def test_a_server_that_does_not_tell_the_size(server: Server, fp8_model: Path) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    server.tell_size = False
    with pytest.raises(UnsupportedError, match="does not say how large it is"):
        anamnesis.inspect(f"{server.url}/m.safetensors")


def test_missing_denied_and_dead(server: Server) -> None:
    server.deny = ("d.gguf",)
    with pytest.raises(FileNotFoundError, match="no such file"):
        anamnesis.inspect(f"{server.url}/none.gguf")
    with pytest.raises(PermissionError, match="permission denied"):
        anamnesis.inspect(f"{server.url}/d.gguf")
    with pytest.raises(OSError, match="ClientConnectorError"):
        anamnesis.inspect("http://127.0.0.1:1/m.gguf")


def test_failures_that_pass_are_tried_again(server: Server, fp8_model: Path) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    server.fail_next = 5
    assert anamnesis.inspect(f"{server.url}/m.safetensors").tensors == 6
    server.fail_next = 6
    with pytest.raises(OSError, match="503"):
        anamnesis.inspect(f"{server.url}/m.safetensors")


def test_an_answer_that_is_cut_short(server: Server, fp8_model: Path) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    server.cut = True
    with pytest.raises(IntegrityError, match=r"bytes came where [0-9,]+ were announced"):
        anamnesis.inspect(f"{server.url}/m.safetensors")


def test_d02_another_version_of_the_same_size(server: Server, fp8_model: Path) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    model = load_model(f"{server.url}/m.safetensors")
    files = Files()
    files(model.files[0])
    files.check_unchanged()
    server.etag = '"2"'
    for again in (files, Files()):
        with pytest.raises(IntegrityError, match="changed while it was read"):
            again(model.files[0]).read(0, 8)


def test_a_file_that_a_driver_knows_from_a_listing(
    fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """adlfs answers from what was listed, and forgets by name only what itself was listed."""
    from fsspec import register_implementation
    from fsspec.implementations.memory import MemoryFileSystem

    class Listed(MemoryFileSystem):  # type: ignore[misc]
        protocol = "listed"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]
        known: ClassVar[dict[str, Any]] = {}

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("listed://")))

        def ls(self, path: str, detail: bool = True, **settings: Any) -> Any:
            names = super().ls(path, detail=False, **settings)
            self.known[path] = [super(Listed, self).info(name) for name in names]
            return self.known[path] if detail else names

        def info(self, path: str, **settings: Any) -> Any:
            listed = self.known.get(path.rpartition("/")[0], ())
            return next((f for f in listed if f["name"] == path), None) or super().info(path)

        def invalidate_cache(self, path: str | None = None) -> None:
            self.known.pop(path, None) if path else self.known.clear()

    register_implementation("listed", Listed, clobber=True)
    fs, data = Listed(), fp8_model.read_bytes()
    fs.pipe_file("/m/model.safetensors", data)
    model = load_model("listed://m")
    assert fs.known
    files = Files()
    files(model.files[0])
    files.check_unchanged()
    fs.ls("/m", detail=True)
    fs.pipe_file("/m/model.safetensors", data[:-1] + b"x")
    with pytest.raises(IntegrityError, match="changed while it was read"):
        files.check_unchanged()


def test_an_error_page_is_named(server: Server) -> None:
    server.files = {"m.safetensors": b"<!DOCTYPE html><html>Sign in</html>" + bytes(900)}
    with pytest.raises(FormatError, match="an HTML page"):
        anamnesis.inspect(f"{server.url}/m.safetensors")


def test_limits_hold_for_remote_headers(server: Server, fp8_model: Path) -> None:
    server.files = {"m.safetensors": fp8_model.read_bytes()}
    with pytest.raises(LimitError, match="max_items"):
        anamnesis.inspect(f"{server.url}/m.safetensors", limits=Limits(max_items=3))
    head = (1 << 40).to_bytes(8, "little")
    server.files = {"m.safetensors": head + bytes(MIB)}
    with pytest.raises(LimitError, match="header length"):
        anamnesis.inspect(f"{server.url}/m.safetensors")
