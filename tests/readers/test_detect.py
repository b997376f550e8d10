from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from clock import within

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import READERS, open_container
from anamnesis.readers.base import Container

GGUF = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)


def safetensors(header_bytes: int = 0) -> bytes:
    """A file without tensors whose header is padded to a length."""
    header = b"{}".ljust(header_bytes)
    return struct.pack("<Q", len(header)) + header


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", b"")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def opened(path: Path | str) -> Container:
    return open_container(str(path), Limits())


def refused(path: Path | str, error: type[AnamnesisError], *texts: str) -> None:
    with within(0.1), pytest.raises(error) as caught:
        opened(path)
    assert type(caught.value) is error
    for text in (str(path), *texts):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("m.gguf", GGUF, "gguf"),
        ("M.GGUF", GGUF, "gguf"),
        ("m.safetensors", safetensors(), "safetensors"),
        # Caches name blobs by their hash: the first bytes decide.
        ("sha256-abc", GGUF, "gguf"),
        ("blob.bin", GGUF, "gguf"),
        ("sha256-abc", safetensors(), "safetensors"),
        # A header of 640 bytes begins as a pickle of protocol 2 does, one of 8,075 as gzip.
        ("m.safetensors", safetensors(0x280), "safetensors"),
        ("sha256-abc", safetensors(0x280), "safetensors"),
        ("m.safetensors", safetensors(0x8B1F), "safetensors"),
        ("m.npy", array(), "npy"),
        ("blob", array(), "npy"),
    ],
)
def test_opened_by_the_first_bytes(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert opened(path).kind == kind
    assert kind in READERS


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("m.safetensors", GGUF, FormatError, "named .safetensors, but starts with b'GGUF'"),
        ("m.gguf", safetensors(), FormatError, "magic"),
        ("m.gguf", b"", FormatError, "empty"),
        ("m", b"", FormatError, "empty"),
        ("m", b"hello", FormatError, "known container"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1\n", FormatError, "Git-LFS"),
        ("m.bin", b"version https://git-lfs.github.com/spec/v1\n", FormatError, "Git-LFS"),
        ("m.gguf", b"<!doctype HTML><html>", FormatError, "HTML"),
        ("m.safetensors", b'{"error":"Repository not found"}', FormatError, "JSON error"),
        ("m.safetensors", b"Entry not found", FormatError, "server"),
        ("m.safetensors", archive(), FormatError, "starts with b'PK"),
        ("m.npz", archive(), FormatError, "named .npz, but starts with b'PK"),
        ("m.pt", archive(), FormatError, "data.pkl: pickle, at byte 0: ends early"),
        ("m.pt", b"<!doctype HTML><html>", FormatError, "HTML"),
        ("m.pt", pickle.dumps(1), FormatError, "magic number: 0x1"),
        *(
            (f"m{p}.bin", pickle.dumps({}, protocol=p), UnsupportedError, "pickle")
            for p in (2, 3, 4, 5)
        ),
        ("m.bin", b"\x1f\x8b\x08" + b"\0" * 20, UnsupportedError, "gzip"),
        ("ggml-model.bin", b"tjgg" + b"\0" * 20, UnsupportedError, "ggml_to_gguf.py"),
        ("flax_model.msgpack", b"\x81\xa6params\x80", UnsupportedError, "from_flax"),
        ("manifest.ocdbt", b"\x0c\xdb\x20\xde" + b"\0" * 40, UnsupportedError, "Orbax"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 20, UnsupportedError, "from_tf"),
        ("any.bin", b"\x1c\0\0\0TFL3" + b"\0" * 20, UnsupportedError, "LiteRT"),
        ("any.bin", b"\x38\0\0\0ET12" + b"\0" * 20, UnsupportedError, "ExecuTorch"),
        ("any.bin", b"\x38\0\0\0ORTM" + b"\0" * 20, UnsupportedError, "ONNX Runtime"),
        ("rank0.engine", b"ftrt" + b"\0" * 20, UnsupportedError, "TensorRT"),
        ("model.bin", b"\6\0\0\0\x0c\0WhisperSpec\0", UnsupportedError, "CTranslate2"),
        ("saved_model.pb", b"\x08\1\x12", UnsupportedError, "TensorFlow"),
        ("a.mlmodel", b"\x08\x08\x12", UnsupportedError, "Core ML"),
        ("a.pdparams", pickle.dumps({}, protocol=2), UnsupportedError, "PaddlePaddle"),
        ("a.nemo", b"\0" * 257 + b"ustar", UnsupportedError, "unpack it"),
        ("m.xml", b'<?xml version="1.0"?>\n<net name="m">', UnsupportedError, "OpenVINO"),
        ("openvino_model.bin", b"\0" * 20, UnsupportedError, "OpenVINO"),
        ("model.onnx_data", b"\0" * 20, UnsupportedError, "name the .onnx"),
    ],
)
def test_refused_by_name(
    name: str, content: bytes, error: type[AnamnesisError], text: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, error, text)
    if error is UnsupportedError:
        refused(path, error, "readable are", *READERS)


@pytest.mark.parametrize(
    ("name", "content", "page"),
    [
        ("m.gguf", GGUF[:4] + b"\1" + GGUF[5:], "formats/gguf"),
        ("m.arrow", b"\xff\xff\xff\xff" + b"\0" * 20, "formats/arrow"),
        ("m.pt", pickle.dumps({}, protocol=2), "formats/pytorch"),
    ],
)
def test_what_a_reader_refuses_names_its_page(
    name: str, content: bytes, page: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, UnsupportedError, f"(docs/{page}.md)")


def test_a_missing_file_is_the_file_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none.gguf")


def test_d04_a_directory(tmp_path: Path) -> None:
    refused(tmp_path, FormatError, "is a directory")


def test_d04_a_fifo_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    refused(path, FormatError, "not a regular file")


def test_d04_a_device() -> None:
    refused("/dev/zero", FormatError, "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_d04_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    path.chmod(0)
    with pytest.raises(PermissionError):
        opened(path)


def test_a_link_to_a_model_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(GGUF)
    (tmp_path / "m.gguf").symlink_to("blob")
    assert opened(tmp_path / "m.gguf").kind == "gguf"
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path / "loop.gguf")


def test_d01_truncated_after_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file shrinks between `fstat` and the read of the header: reported, not a crash."""
    from anamnesis.errors import IntegrityError
    from anamnesis.readers.source import LocalFile

    header = json.dumps({f"t{i}": {} for i in range(1000)}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    read_into = LocalFile.read_into

    def shrinking(file: LocalFile, offset: int, buffer: bytearray) -> None:
        if len(buffer) == len(header):
            os.truncate(path, 600)
        read_into(file, offset, buffer)

    monkeypatch.setattr(LocalFile, "read_into", shrinking)
    with pytest.raises(IntegrityError, match="ended at byte 600"):
        opened(path)
