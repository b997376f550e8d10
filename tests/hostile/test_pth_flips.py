"""Every single flipped byte of a checkpoint's members is reported, naming the member."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pth_bytes
import pytest

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, IntegrityError

B = pth_bytes


def seed(method: int) -> bytes:
    """A strided view, a storage that no tensor uses, and the small members beside them."""
    store = B.storage("0", 4)
    top = B.dict_({"w": B.tensor(store), "t": B.tensor(store, (2, 2), (1, 2)), "s": B.storage("1")})
    extra = [("byteorder", b"little"), ("version", b"3\n"), (".data/serialization_id", b"12345")]
    storages = {"0": B.DATA, "1": B.DATA}
    return bytes(B.pth(B.pickled(top), storages, "m", extra, method))


def members(content: bytes) -> dict[int, str]:
    """The member that each byte of data belongs to."""
    owner: dict[int, str] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<2H", content, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            owner |= dict.fromkeys(range(start, start + info.compress_size), info.filename)
    return owner


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_flipped_byte_is_reported(method: int, tmp_path: Path) -> None:
    content = seed(method)
    path, out = tmp_path / "m.pth", tmp_path / "out.safetensors"
    path.write_bytes(content)
    anamnesis.remember(path, out)
    good = out.read_bytes()
    out.unlink()
    owner = members(content)
    assert len(set(owner.values())) == 6
    told = 0
    for at in range(len(content)):
        if at not in owner and at % 8:
            continue
        path.write_bytes(content[:at] + bytes((content[at] ^ 0x20,)) + content[at + 1 :])
        error = outcome(path, out)
        if error is None:
            # Times in headers say nothing of the data, nor do the bits that pad a deflate stream.
            assert at not in owner or method == zipfile.ZIP_DEFLATED, (at, owner[at])
            assert out.read_bytes() == good
        elif at in owner:
            told += 1
            assert type(error) in (KINDS if method else KINDS[:1]), (at, error)
            assert owner[at] in str(error)
    assert told >= len(owner) - (6 if method else 0)
    assert not list(tmp_path.glob("*.part"))


KINDS = (IntegrityError, FormatError)


def outcome(path: Path, out: Path) -> AnamnesisError | None:
    try:
        anamnesis.remember(path, out, overwrite=True)
    except AnamnesisError as error:
        return error
    return None
