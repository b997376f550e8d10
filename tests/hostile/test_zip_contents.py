"""Rows Z06 to Z22 that only reading the members can tell, and what archives may be."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock import MARGIN
from zip_bytes import (
    MIB,
    PACKED,
    A,
    B,
    Entry,
    archive,
    array,
    central_header,
    deflate,
    described,
    local_header,
    overlapping,
    wide,
)

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, IntegrityError
from anamnesis.limits import Limits
from anamnesis.readers.npz import open_npz
from anamnesis.readers.source import LocalFile
from anamnesis.readers.zip import read_members


def run_refused(content: bytes, folder: Path, error: type[AnamnesisError], text: str) -> None:
    """Only reading the data can tell; nothing may be left of the output."""
    path = folder / "m.npz"
    path.write_bytes(content)
    assert len(open_npz(str(path), Limits()).stored) >= 1
    with pytest.raises(error, match=text) as caught:
        anamnesis.remember(path, folder / "new" / "out.safetensors")
    assert type(caught.value) is error
    assert [p.name for p in folder.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("difference", [-4, 4])
def test_z06_another_size_than_declared(difference: int, tmp_path: Path) -> None:
    data = array(np.zeros(100))
    header = array(np.zeros(100 + difference // 4))
    entry = Entry(data=header[:128] + data[128:], method=8)
    sizes = {"size": len(data) + difference}
    content = archive(replace(entry, local=sizes, central=sizes))
    run_refused(content, tmp_path, FormatError, r"member 'a\.npy': inflates to (more|fewer) than")


@pytest.mark.parametrize("method", [0, 8])
def test_z07_crc_wrong_and_data_intact(method: int, tmp_path: Path) -> None:
    crc = {"crc": zlib.crc32(A.data) ^ 1}
    content = archive(replace(A, method=method, local=crc, central=crc))
    run_refused(content, tmp_path, IntegrityError, r"member 'a\.npy': CRC-32")


@pytest.mark.parametrize("method", [0, 8])
def test_z07_data_flipped(method: int, tmp_path: Path) -> None:
    flipped = A.data[:-1] + b"\x41"
    packed = deflate(flipped) if method == 8 else flipped
    content = archive(replace(A, method=method, packed=packed))
    run_refused(content, tmp_path, IntegrityError, r"member 'a\.npy': CRC-32")


def test_z07_a_member_that_holds_no_tensor(tmp_path: Path) -> None:
    content = archive(A, Entry(b"LICENSE", b"MIT", packed=b"MIX"))
    run_refused(content, tmp_path, IntegrityError, "member 'LICENSE': CRC-32")


def test_z09_overlaps_are_found_before_anything_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(overlapping(1000, 10 * MIB))
    assert path.stat().st_size < 80_000
    with pytest.raises(FormatError, match="overlaps"):
        open_npz(str(path), Limits(max_expansion_ratio=2000))


def test_z11_a_bomb_that_is_allowed_streams(tmp_path: Path) -> None:
    """64 MiB of zeros from 64 kB, when the caller raises the ratio."""
    path, out = tmp_path / "m.npz", tmp_path / "out.safetensors"
    np.savez_compressed(path, a=np.zeros(16 * MIB, "<f4"))
    limits = Limits(max_expansion_ratio=1100)
    anamnesis.remember(path, out, limits=limits, memory="200MiB")
    assert out.stat().st_size > 64 * MIB


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (b"\xff" * 60, r"broken deflate stream"),
        (deflate(A.data)[:-3], r"inflates to fewer|no end"),
        (deflate(A.data) + b"\0", r"bytes after the end of its deflate stream"),
        (deflate(A.data) + deflate(B.data), r"bytes after the end of its deflate stream"),
    ],
    ids=["corrupt", "cut", "trailing", "second-stream"],
)
def test_z18_deflate(packed: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(archive(replace(PACKED, packed=packed), B))
    with pytest.raises(FormatError, match=rf"member 'a\.npy': ({text})"):
        anamnesis.remember(path, tmp_path / "new" / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..\\x", "C:\\x", "a" * 4_000, "CON", "é"])
def test_z19_names_are_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    raw = f"{name}.npy".encode()
    path.write_bytes(archive(replace(A, name=raw, flags=0x800)))
    assert list(open_npz(str(path), Limits()).stored) == [name]
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_z19_names_without_the_flag_are_cp437(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(archive(replace(A, name=b"\x82\xe1.npy")))
    assert list(open_npz(str(path), Limits()).stored) == ["éß"]


def many(count: int) -> bytes:
    """Small arrays with names as models have them."""
    entry = Entry()
    header, data = local_header(entry)[:26], entry.data
    central = central_header(entry, 0)
    body, directory = io.BytesIO(), io.BytesIO()
    for number in range(count):
        name = b"model.layers.%06d.weight.npy" % number
        directory.write(central[:28] + struct.pack("<H", len(name)) + central[30:42])
        directory.write(struct.pack("<I", body.tell()) + name)
        body.write(header + struct.pack("<2H", len(name), 0) + name + data)
    start, size = body.tell(), directory.tell()
    body.write(directory.getvalue())
    at = body.tell()
    body.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
    body.write(struct.pack("<4sIQI", b"PK\6\7", 0, at, 1))
    short = min(count, 0xFFFF)
    body.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, short, short, size, start, 0))
    return body.getvalue()


def test_z20_sixty_thousand_members(
    tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(many(60_000))
    result = opened_apart(path)
    assert (result["kind"], result["tensors"]) == ("", 60_000)
    assert result["seconds"] < MARGIN * 1.2
    assert result["rss_bytes"] < 256 * MIB


def test_z20_more_members_than_the_cap(
    tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "m.npz"
    count = (1 << 20) + 1
    central = bytes(46 * count)
    path.write_bytes(
        archive(
            A,
            central=central,
            end64={"count": count, "here": count},
            end={
                "count": 0xFFFF,
                "here": 0xFFFF,
            },
        )
    )
    result = opened_apart(path)
    assert result["kind"] == "LimitError"
    assert "1,048,576" in result["message"]
    assert result["seconds"] < MARGIN * 0.1
    assert result["rss_bytes"] < 64 * MIB


def test_z21_what_is_no_array_is_skipped_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(archive(A, Entry(b"readme", b"text"), Entry(b"folder/", b"")))
    container = open_npz(str(path), Limits())
    assert list(container.stored) == ["a"]
    assert len(container.notes) == 2


def test_z22_what_pytorch_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pth"
    torch.save({"w": torch.arange(5.0), "empty": torch.zeros(0)}, path)
    with LocalFile(path) as file:
        members = {m.name.partition("/")[2]: m for m in read_members(file, Limits())}
        assert {"data.pkl", "data/0", "data/1", "version"} <= members.keys()
        weights = members["data/0"]
        assert weights.offset % 64 == 0
        assert file.read(weights.offset, 20) == np.arange(5, dtype="<f4").tobytes()
        assert zlib.crc32(file.read(weights.offset, 20)) == weights.crc32


def test_sizes_in_both_places(tmp_path: Path) -> None:
    """What zipfile of Python 3.8 to 3.11.3 wrote under `force_zip64`, as numpy.savez asks."""
    size = len(array())
    packed = len(deflate(array()))
    # To a pipe: zeros in both places, and sizes of 64 bits behind the data.
    behind = struct.pack("<4sI2Q", b"PK\7\x08", zlib.crc32(array()), size, size)
    piped = replace(described(A), descriptor=behind)
    for member, extra in (
        (A, wide(size, size)),
        (PACKED, wide(size, packed)),
        (piped, wide(0, 0)),
    ):
        local = {**member.local, "extra": extra}
        path = tmp_path / "m.npz"
        path.write_bytes(archive(replace(member, local=local), B))
        assert list(open_npz(str(path), Limits()).stored) == ["a", "b"]
        with zipfile.ZipFile(path) as reference:
            assert reference.testzip() is None
