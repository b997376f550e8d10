"""Models in a bucket: a server of S3's protocol in a process of its own (moto), through s3fs."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import IntegrityError
from anamnesis.readers import origins, remote
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")
SECRET = "s3cr3t" * 4


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = None
        for line in process.stderr:
            if found := re.search(r"Running on (http://[\w.:]+)", line):
                break
        assert found
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or its pipe fills up
        yield found[1]
        process.terminate()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket, and the environment by which drivers find it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    if not fs.exists("bucket"):
        fs.mkdir("bucket")
    yield fs
    fs.rm("bucket/m", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_model_in_a_bucket(bucket: Any, fp8_model: Path, tmp_path: Path) -> None:
    bucket.pipe("bucket/m/model.safetensors", fp8_model.read_bytes())
    bucket.pipe("bucket/m/config.json", b"{}")
    assert anamnesis.inspect("s3://bucket/m/").tensors == 6
    anamnesis.remember("s3://bucket/m/", tmp_path / "there")
    anamnesis.remember(fp8_model, tmp_path / "here")
    here, there = (tmp_path / name / "model.safetensors" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    record = next(path for path in tmp_path.rglob("*anamnesis.json") if "there" in str(path))
    assert SECRET not in record.read_text()


def test_an_object_that_is_replaced(bucket: Any, fp8_model: Path) -> None:
    data = fp8_model.read_bytes()
    bucket.pipe("bucket/m/model.safetensors", data)
    model = load_model("s3://bucket/m/model.safetensors")
    files = Files()
    file = files(model.files[0])
    file.read(0, 8)
    files.check_unchanged()
    bucket.pipe("bucket/m/model.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="changed while it was read"):  # asked for by its ETag
        file.fetch_into(0, bytearray(8))
    with pytest.raises(IntegrityError, match="changed while it was read"):  # by its own answer
        Files()(model.files[0]).fetch_into(0, bytearray(8))


def test_only_the_version_that_was_seen_is_asked_for(
    bucket: Any, fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing besides ranges; a store that names no version is asked for it."""
    bucket.pipe("bucket/m/model.safetensors", fp8_model.read_bytes())
    model = load_model("s3://bucket/m/model.safetensors")
    asked: list[tuple[str, dict[str, Any]]] = []
    real = s3fs.S3FileSystem._call_s3
    named = True

    async def call(self: Any, method: str, *args: Any, **wanted: Any) -> Any:
        asked.append((method, wanted))
        answer = await real(self, method, *args, **wanted)
        return answer if named or method != "get_object" else {"Body": answer["Body"]}

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    files = Files()
    file = files(model.files[0])
    for _ in range(2):
        file.fetch_into(0, bytearray(8))
    files.check_unchanged()
    etag = bucket.info("bucket/m/model.safetensors")["ETag"]
    assert [(method, wanted.get("IfMatch")) for method, wanted in asked[:2]] == [
        ("get_object", None),
        ("get_object", etag),
    ]
    assert [method for method, _ in asked].count("head_object") <= 1  # our own, of the ETag
    named = False
    asked.clear()
    file.fetch_into(0, bytearray(8))
    files.check_unchanged()
    assert [method for method, _ in asked] == ["get_object", "head_object"]


def test_what_is_not_there(bucket: Any, fp8_model: Path) -> None:
    bucket.pipe("bucket/m/model.safetensors", fp8_model.read_bytes())
    with pytest.raises(FileNotFoundError) as caught:
        anamnesis.inspect("s3://bucket/m/none.safetensors")
    assert SECRET not in str(caught.value)
    with pytest.raises(OSError, match="none"):
        anamnesis.inspect("s3://none/m.safetensors")


def test_the_patience_is_for_the_bytes_of_a_range(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for all bytes before it, or a server that stalls would be waited for without an end."""
    bucket.pipe("bucket/m/data", bytes(1 << 20))
    waited: list[int] = []

    asked = origins.call_on

    def call_on(loop: Any, url: str, request: Callable[[], Any], nbytes: int = 0) -> Any:
        waited.append(nbytes)
        return asked(loop, url, request, nbytes)

    with remote.RemoteFile("s3://bucket/m/data") as file:
        monkeypatch.setattr(origins, "call_on", call_on)
        file.fetch_into((1 << 20) - 16, bytearray(16))
    assert waited == [16]
