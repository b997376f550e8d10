"""Archives that Python's zipfile and PyTorch write, read member by member."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.errors import FormatError, IntegrityError
from anamnesis.limits import Limits
from anamnesis.readers.base import Member
from anamnesis.readers.source import LocalFile
from anamnesis.readers.zip import check_crc32, checksum, read_members, read_start

GIB = 1 << 30
DATA = {
    "a": b"",
    "folder/": b"",
    "folder/b.bin": bytes(range(256)) * 40,
    "größe.txt": "größe".encode() * 100,
    "日本": b"x",
}


def members(path: Path) -> dict[str, Member]:
    with LocalFile(path) as file:
        return {m.name: m for m in read_members(file, Limits())}


def check(path: Path, expected: dict[str, bytes]) -> None:
    with LocalFile(path) as file:
        found = read_members(file, Limits())
        assert [m.offset for m in found] == sorted(m.offset for m in found)
        assert {m.name for m in found} == expected.keys()
        for member in found:
            data = expected[member.name]
            assert (member.nbytes, member.crc32) == (len(data), zlib.crc32(data))
            assert read_start(file, member, 10_000_000) == data
            assert read_start(file, member, 3) == data[:3]
            assert read_start(file, member, 0) == b""
            assert checksum(file, member) == member.crc32
            if not member.deflated:
                assert file.read(member.offset, member.packed_bytes) == data


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment" * 1000])
def test_zipfile(method: int, comment: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = comment
        for name, data in DATA.items():
            archive.writestr(name, data)
    check(path, DATA)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wide", [False, True])
def test_a_stream_that_cannot_seek(method: int, wide: bool, tmp_path: Path) -> None:
    """Sizes follow in descriptors; with `force_zip64` they take 64 bits."""

    class Pipe(io.RawIOBase):
        def __init__(self, target: Any) -> None:
            self.target = target

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return int(self.target.write(data))

    path = tmp_path / "a.zip"
    with path.open("wb") as target, zipfile.ZipFile(Pipe(target), "w", method) as archive:
        for name, data in DATA.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=wide) as file:
                file.write(data)
    assert b"PK\7\x08" in path.read_bytes()
    check(path, DATA)


def test_added_to_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for name, data in DATA.items():
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, data)
    check(path, DATA)


def test_an_empty_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    assert members(path) == {}


def test_a_directory_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in DATA.items():
            archive.writestr(name, data)
        archive.filelist.reverse()
    assert list(members(path)) == list(DATA)


@pytest.mark.parametrize("count", [65_535, 65_536])
def test_where_counts_need_zip64(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(zipfile.ZipInfo(str(number)), b"")
    assert (b"PK\6\6" in path.read_bytes()) == (count > 65_535)
    assert len(members(path)) == count


def test_a_checksum_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name", b"data")
    member = members(path)["name"]
    check_crc32(member, zlib.crc32(b"data"))
    with pytest.raises(IntegrityError, match=r"a\.zip: member 'name': CRC-32 .* is damaged"):
        check_crc32(member, zlib.crc32(b"date"))


class Sparse:
    """An archive of members of any size, in a file with holes."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.central = b""
        self.count = 0

    def add(
        self,
        name: str,
        nbytes: int,
        local: tuple[int, int, int],
        extra: bytes,
        flags: int,
        descriptor: str = "",
    ) -> None:
        """`local` is CRC-32, packed size and size as the local header has them."""
        raw, offset = name.encode(), self.file.tell()
        fixed = struct.pack(
            "<4s5H3I2H", b"PK\3\4", 45, flags, 0, 0, 33, *local, len(raw), len(extra)
        )
        self.file.write(fixed + raw + extra)
        self.file.seek(nbytes, 1)
        if descriptor:
            self.file.write(struct.pack(f"<4sI{descriptor}", b"PK\7\x08", 7, nbytes, nbytes))
        large = [nbytes, nbytes] if nbytes >= 0xFFFFFFFF else []
        large += [offset] if offset >= 0xFFFFFFFF else []
        field = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        size, place = min(nbytes, 0xFFFFFFFF), min(offset, 0xFFFFFFFF)
        numbers = (7, size, size, len(raw), len(field), 0, 0, 0, 0, place)
        self.central += struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, flags, 0, 0, 33, *numbers)
        self.central += raw + field
        self.count += 1

    def close(self) -> None:
        start, size, count = self.file.tell(), len(self.central), self.count
        at = start + size
        self.file.write(self.central)
        self.file.write(
            struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
        )
        self.file.write(struct.pack("<4sIQI", b"PK\6\7", 0, at, 1))
        self.file.write(
            struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, min(start, 0xFFFFFFFF), 0)
        )
        self.file.close()


def wide(*numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def test_beyond_4_gib_as_zipfile_writes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    archive = Sparse(path)
    size, masked = 4 * GIB + 5, (7, 0xFFFFFFFF, 0xFFFFFFFF)
    archive.add("large", size, masked, wide(size, size), 0)
    archive.add("behind", 9, (7, 9, 9), b"", 0)
    archive.add("streamed", size, (0, 0xFFFFFFFF, 0xFFFFFFFF), wide(0, 0), 8, "2Q")
    archive.close()
    assert [m.nbytes for m in members(path).values()] == [size, 9, size]


def test_beyond_4_gib_as_pytorch_writes(tmp_path: Path) -> None:
    """Seen in a file of torch 2.13: zeros in the header, with or without a ZIP64 field behind."""
    path = tmp_path / "large"
    size, pad = 4 * GIB + 100, b"FB\3\0ZZZ"
    archive = Sparse(path)
    archive.add("r/data/0", 8, (0, 0, 0), pad, 0x808, "2I")
    archive.add("r/data/1", size, (0, 0, 0), wide(size, 0) + pad, 0x808, "2Q")
    offset = archive.file.tell()
    archive.add("r/data/2", 12, (0, 0, 0), wide(offset) + pad, 0x808, "2Q")
    archive.close()
    assert [m.nbytes for m in members(path).values()] == [8, size, 12]


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (wide(4 * GIB + 100, 1), "packed size"),
        (wide(4 * GIB + 101, 0), "size"),
        (wide(4 * GIB + 100), "ZIP64 field"),
        (wide(4 * GIB + 100, 0, 0), "ZIP64 field"),
        (b"", "data descriptor"),
    ],
)
def test_beyond_4_gib_and_wrong(extra: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    archive = Sparse(path)
    archive.add("r/data/1", 4 * GIB + 100, (0, 0, 0), extra, 0x808, "2Q")
    archive.close()
    with pytest.raises(FormatError, match=text):
        members(path)


def test_numpys_archives_are_aligned_to_nothing(tmp_path: Path) -> None:
    """Offsets of arrays may be odd; what is read from them goes to aligned memory."""
    import anamnesis

    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(5.0), abc=np.arange(7.0))
    assert {m.offset % 8 for m in members(path).values()} != {0}
    assert anamnesis.open_model(path)["abc"].to_numpy().tolist() == list(range(7))
