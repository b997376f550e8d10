"""Rows Z01 to Z22 of the table of malformed input: what bad headers of a ZIP lead to."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from zip_bytes import (
    BIG,
    DESCRIBED,
    MIB,
    PACKED,
    A,
    B,
    Entry,
    archive,
    array,
    central_header,
    described,
    descriptor,
    local_header,
    overlapping,
    wide,
)

import anamnesis
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    LimitError,
    SecurityError,
    UnsupportedError,
)

Case = tuple[bytes, type[AnamnesisError], str]


def bad(content: bytes, field: str, error: type[AnamnesisError] = FormatError) -> Case:
    """An archive, the error that it must lead to, and what the message names."""
    return content, error, field


def cases() -> dict[str, Case]:
    nul, long = Entry(b"a\0.npy"), Entry(b"n" * 5_000 + b".npy")
    masked = {"packed": BIG, "size": BIG}
    size = len(array())
    bomb = Entry(b"bomb.npy", b"", packed=bytes(4 * MIB), method=8)
    return {
        "Z01-one-name-twice": bad(archive(A, A), "member 'a.npy'"),
        "Z01-other-data": bad(archive(A, replace(B, name=A.name)), "twice"),
        "Z01-twice-by-encoding": bad(
            archive(replace(A, name="é.npy".encode(), flags=0x800), replace(B, name=b"\x82.npy")),
            "twice",
        ),
        "Z02-local-name": bad(
            archive(replace(A, local={"name": b"b.npy"})), "member 'a.npy': local header: name"
        ),
        "Z02-local-name-longer": bad(
            archive(replace(A, local={"name": b"a.npyy"})), "local header: name"
        ),
        "Z03-local-method": bad(archive(replace(A, local={"method": 8})), "local header: method"),
        "Z03-central-method": bad(
            archive(replace(PACKED, local={"method": 0})), "local header: method"
        ),
        "Z03-local-flags": bad(archive(replace(A, local={"flags": 0x800})), "local header: flags"),
        "Z04-local-size": bad(
            archive(replace(PACKED, local={"size": size - 1})), "local header: size"
        ),
        "Z04-local-packed-size": bad(
            archive(replace(A, local={"packed": 0})), "local header: packed size"
        ),
        "Z04-local-crc": bad(archive(replace(A, local={"crc": 0})), "local header: CRC-32"),
        "Z05-stored-with-two-sizes": bad(
            archive(replace(A, central={"size": size - 1}, local={"size": size - 1})), "two sizes"
        ),
        "Z08-two-entries-one-header": bad(
            archive(A, replace(B, alone=True, central={"offset": 0})), "overlaps"
        ),
        "Z08-same-name-one-header": bad(
            archive(A, replace(A, alone=True, central={"offset": 0})), "member 'a.npy'"
        ),
        "Z08-quoted-header": bad(
            archive(
                Entry(b"a.npy", local_header(B) + B.data),
                replace(B, alone=True, central={"offset": 35}),
            ),
            "overlaps",
        ),
        "Z09-a-thousand-entries-one-kernel": bad(
            overlapping(1000, MIB), "max_expansion_ratio", LimitError
        ),
        "Z10-pickle-of-300-mb": bad(
            archive(Entry(b"a/data.pkl", bytes(300 * MIB // 1000), packed=bytes(290), method=8)),
            "data.pkl",
            LimitError,
        ),
        "Z11-4-mb-to-4-gib": bad(
            archive(replace(bomb, local={"size": BIG - 1}, central={"size": BIG - 1})),
            "bomb.npy",
            LimitError,
        ),
        "Z11-nothing-to-something": bad(
            archive(replace(PACKED, packed=b"", data=bytes(5000))),
            "max_expansion_ratio",
            LimitError,
        ),
        "Z12-count-low": bad(archive(A, B, end={"count": 1, "here": 1}), "directory"),
        "Z12-count-high": bad(archive(A, B, end={"count": 3, "here": 3}), "entries"),
        "Z12-count-zero": bad(archive(A, end={"count": 0, "here": 0}), "directory"),
        "Z12-two-counts": bad(archive(A, B, end={"here": 1}), "entries"),
        "Z12-count-2-64": bad(
            archive(A, end64={"count": 2**64 - 1, "here": 2**64 - 1}, end={"count": 0xFFFF}),
            "entries",
        ),
        "Z12-directory-size": bad(archive(A, end={"size": 50}), "directory"),
        "Z12-directory-offset": bad(archive(A, end={"offset": 1}), "directory"),
        "Z12-directory-past-end": bad(archive(A, end={"offset": BIG}), "directory"),
        "Z12-signature-behind-entries": bad(
            archive(A, central=central_header(A, 0) + b"PK\5\5\0\0"), "central directory"
        ),
        "Z13-prefix": bad(
            archive(A, prefix=b"MZ" + bytes(100)), "leaves a gap behind the start of the file"
        ),
        "Z13-prefix-that-looks-right": bad(
            archive(A, prefix=b"PK\3\4" + bytes(100)), "leaves a gap"
        ),
        "Z13-prefix-not-counted": bad(b"MZ" + archive(A), "end of central directory"),
        "Z13-gap-between-members": bad(
            archive(replace(A, descriptor=b"hidden"), B), "member 'b.npy': local header: offset"
        ),
        "Z13-gap-before-directory": bad(archive(A, gap=b"hidden"), "leaves a gap"),
        "Z14-bytes-after-end": bad(archive(A, after=b"\0"), "comment length"),
        "Z14-comment-length-long": bad(
            archive(A, comment=b"abc", end={"comment": 4}), "comment length"
        ),
        "Z14-comment-length-short": bad(
            archive(A, comment=b"abc", end={"comment": 2}), "comment length"
        ),
        "Z14-second-end-in-comment": bad(
            archive(A, comment=archive()[-22:]), "end of central directory"
        ),
        "Z14-second-archive-behind": bad(archive(A) + archive(B), "directory"),
        "Z14-no-end": bad(archive(A)[:-22], "end of central directory"),
        "Z14-cut-short": bad(archive(A)[:-1], "end of central directory"),
        "Z15-header-past-end": bad(archive(replace(A, central={"offset": 10_000})), "local header"),
        "Z15-header-at-directory": bad(
            archive(A, replace(B, alone=True)), "past the end of the members"
        ),
        "Z15-size-past-end": bad(
            archive(replace(A, central=(m := {"packed": 9999, "size": 9999}), local=m)),
            "go past the end of the members",
        ),
        "Z15-name-past-end": bad(archive(A, central=central_header(A, 0)[:-1]), "entry 0"),
        "Z15-local-signature": bad(archive(A).replace(b"PK\3\4", b"PK\3\5"), "signature"),
        "Z15-central-signature": bad(archive(A).replace(b"PK\1\2", b"PK\1\3"), "signature"),
        "Z16-locator-elsewhere": bad(archive(A, end64={"at": 0}), "locator"),
        "Z16-locator-past-end": bad(archive(A, end64={"at": 2**63}), "locator"),
        "Z16-extensible-data": bad(archive(A, end64={"data": b"hidden", "size": 50}), "locator"),
        "Z16-record-size": bad(archive(A, end64={"size": 45}), "size"),
        "Z16-record-signature": bad(archive(A, end64={"signature": b"PK\6\5"}), "signature"),
        "Z16-two-directories": bad(archive(A, B, end64={"count": 1, "here": 1}), "ZIP64 record"),
        **{
            f"Z16-{name}": bad(archive(replace(A, extra=extra, central=c, local=c)), text)
            for name, extra, c, text in (
                ("extra-short", wide(size), masked, "ZIP64 field"),
                ("extra-long", wide(size, size, 0), masked, "ZIP64 field"),
                ("extra-odd", wide(size, size, tail=b"\0"), masked, "ZIP64 field"),
                ("extra-without-need", wide(size, size), {}, "ZIP64 field"),
                ("extra-missing", b"", masked, "ZIP64 field"),
                ("extra-twice", wide(size, size) * 2, masked, "given twice"),
                ("extra-cut", b"\1\0\x10\0" + bytes(8), masked, "ends outside"),
                ("extra-stray-bytes", b"\xff\xff\0\0\0", {}, "stray"),
            )
        },
        "Z16-local-masked-alone": bad(
            archive(replace(A, local=masked)), "local header: ZIP64 field"
        ),
        "Z16-local-without-masks": bad(
            archive(replace(A, local={"extra": wide(size, size + 1)})), "local header: ZIP64 field"
        ),
        "Z16-local-one-size": bad(
            archive(replace(A, local=masked | {"extra": wide(size)})), "local header: ZIP64 field"
        ),
        "Z16-local-other-size": bad(
            archive(replace(A, local=masked | {"extra": wide(size + 1, size)})),
            "local header: size",
        ),
        "Z17-encrypted": bad(archive(replace(A, flags=1)), "encrypted", UnsupportedError),
        "Z17-strongly": bad(archive(replace(A, flags=0x41)), "encrypted", UnsupportedError),
        "Z17-aes": bad(archive(replace(A, flags=1, method=99)), "encrypted", UnsupportedError),
        "Z17-patch": bad(archive(replace(A, flags=0x20)), "patch", UnsupportedError),
        "Z17-masked-headers": bad(archive(replace(A, flags=0x2000)), "masked", UnsupportedError),
        "Z17-reserved-flag": bad(archive(replace(A, flags=0x8000)), "flags"),
        **{
            f"Z17-method-{method}": bad(archive(replace(A, method=method)), name, UnsupportedError)
            for method, name in ((1, "Shrink"), (9, "Deflate64"), (12, "bzip2"), (14, "LZMA"))
        },
        "Z17-method-unknown": bad(archive(replace(A, method=77)), "77 (unknown)", UnsupportedError),
        "Z17-disk-of-end": bad(archive(A, end={"disk": 1}), "disk 1", UnsupportedError),
        "Z17-disk-of-member": bad(
            archive(replace(A, central={"disk": 2})), "disk 2", UnsupportedError
        ),
        "Z17-disks-of-locator": bad(archive(A, end64={"disks": 2}), "2 disks", UnsupportedError),
        "Z19-nul": bad(archive(nul), "NUL"),
        "Z19-5-kb": bad(archive(long), "4,096"),
        "Z19-no-name": bad(archive(replace(A, name=b""), B), "name: empty"),
        "Z19-not-utf8": bad(archive(replace(A, name=b"\xff.npy", flags=0x800)), "UTF-8"),
        "Z19-other-unicode-path": bad(
            archive(replace(A, extra=struct.pack("<2HBI5s", 0x7075, 10, 1, 0, b"b.npy"))),
            "another name",
        ),
        "Z21-pickle": bad(archive(A, Entry(b"p", pickle.dumps({}))), "member 'p'", SecurityError),
        "Z21-pickle-under-the-name": bad(
            archive(Entry(b"a.npy", pickle.dumps([1]))), "member 'a.npy'", SecurityError
        ),
        "Z21-pickle-by-name": bad(
            archive(A, Entry(b"a/data.pkl", b"(I1\n.")), "member 'a/data.pkl'", SecurityError
        ),
        "Z21-no-array-under-the-name": bad(
            archive(Entry(b"a.npy", b"\0\0\0\0")), "member 'a.npy': magic"
        ),
        "Z21-deflated-pickle": bad(
            archive(A, Entry(b"p", pickle.dumps({}), method=8)), "member 'p'", SecurityError
        ),
        **{
            f"Z22-descriptor-{name}": bad(archive(described(A, **{name: 7})), "data descriptor")
            for name in ("crc", "packed", "size")
        },
        "Z22-no-descriptor": bad(archive(replace(described(A), descriptor=b"")), "data descriptor"),
        "Z22-descriptor-without-signature": bad(
            archive(replace(described(A), descriptor=descriptor(A)[4:] + bytes(4))),
            "data descriptor: signature",
        ),
        "Z22-descriptor-without-flag": bad(
            archive(replace(A, descriptor=descriptor(A)), B), "leaves a gap"
        ),
        "Z22-header-with-other-numbers": bad(
            archive(replace(described(A), local={"crc": 7})), "local header: CRC-32"
        ),
    }


CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, refused: Callable[..., str]) -> None:
    content, error, field = CASES[case]
    refused(content, ".npz", error, field)


def test_the_builder_makes_archives_that_are_read(tmp_path: Path) -> None:
    """Otherwise every row above might be refused for another reason than its own."""
    path = tmp_path / "m.npz"
    size = len(array())
    masked = {"packed": BIG, "size": BIG}
    for content in (
        archive(A, B),
        archive(PACKED, B),
        archive(A, B, comment=b"a comment"),
        archive(A, end64={}),
        archive(A, end64={}, end={"count": 0xFFFF, "here": 0xFFFF, "size": BIG, "offset": BIG}),
        archive(replace(A, extra=wide(size, size), local=masked, central=masked)),
        archive(
            replace(
                A,
                local=masked | {"extra": wide(size, size)},
                central={"size": BIG, "offset": BIG, "extra": wide(size, 0)},
            )
        ),
        archive(replace(A, local=masked | {"extra": wide(size, size)})),
        archive(replace(A, extra=struct.pack("<2HBI5s", 0x7075, 10, 1, 0, b"a.npy"))),
        archive(described(A), described(B)),
        archive(described(PACKED)),
        archive(replace(described(A), local={})),
        archive(replace(described(A), local=DESCRIBED | {"extra": b"FB\3\0ZZZ"})),
    ):
        path.write_bytes(content)
        anamnesis.remember(path, tmp_path / "out.safetensors", overwrite=True)
        assert load_file(tmp_path / "out.safetensors")["a"].tolist() == [1.0, 2.0, 3.0]
        with zipfile.ZipFile(path) as other:
            assert other.testzip() is None
