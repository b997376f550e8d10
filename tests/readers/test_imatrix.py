"""Importance matrices: both formats of llama.cpp, and files that are none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import finish

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import Limits
from anamnesis.readers.imatrix import open_imatrix
from anamnesis.readers.source import open_source

SUMS = np.arange(12, dtype=np.float32).reshape(2, 6)


def legacy(
    *entries: tuple[bytes, int, bytes], count: int | None = None, tail: bytes = b""
) -> bytes:
    data = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, sums in entries:
        data += struct.pack("<i", len(name)) + name
        data += struct.pack("<ii", calls, len(sums) // 4) + sums
    return data + tail


def as_gguf(path: Path, counts: tuple[float, ...] = (3, 0), **more: np.ndarray) -> Path:
    """An imatrix GGUF of one stack of two matrices, by gguf-py."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt", "b.txt"])
    writer.add_uint32("imatrix.chunk_count", 5)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("x.weight.in_sum2", SUMS)
    if counts:
        writer.add_tensor("x.weight.counts", np.array(counts, np.float32)[:, None])
    for name, values in more.items():
        writer.add_tensor(name.replace("__", "."), values)
    finish(writer)
    return path


def means(path: Path, first: int, count: int) -> list[float]:
    entry = open_imatrix(str(path), Limits()).entries["x.weight"]
    with open_source(str(path)) as file:
        found: list[float] = entry.means(file, first, count).tolist()
    return found


def test_both_formats(tmp_path: Path) -> None:
    path = as_gguf(tmp_path / "i.gguf", x__weight__in_sum=SUMS)
    found = open_imatrix(str(path), Limits())
    assert (found.datasets, found.chunks, list(found.entries)) == (
        ("a.txt", "b.txt"),
        5,
        ["x.weight"],
    )
    # The second matrix was never used, so that its columns count alike.
    assert means(path, 4, 4) == [np.float32(4) / np.float32(3), np.float32(5) / np.float32(3), 1, 1]

    old = tmp_path / "imatrix.dat"
    old.write_bytes(legacy((b"x.weight", 7, SUMS.tobytes()), (b"y", 0, SUMS[0].tobytes())))
    found = open_imatrix(str(old), Limits())
    assert (found.datasets, found.chunks, list(found.entries)) == ((), 0, ["x.weight", "y"])
    assert means(old, 6, 2) == [np.float32(6) / np.float32(7), 1]
    old.write_bytes(legacy((b"x.weight", 0, SUMS.tobytes()), tail=struct.pack("<ii", 9, 1) + b"t"))
    found = open_imatrix(str(old), Limits())
    assert (found.datasets, found.chunks) == (("t",), 9)
    assert means(old, 6, 2) == [6, 7]  # without calls, sums count as they are


def test_the_digest_is_of_all_bytes(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    digests = set()
    for dataset in (b"a", b"b"):
        tail = struct.pack("<ii", 9, 1) + dataset
        path.write_bytes(legacy((b"x", 1, SUMS.tobytes()), tail=tail))
        digests.add(open_imatrix(str(path), Limits()).digest)
    assert len(digests) == 2


NAN = np.array([1, np.nan], np.float32).tobytes()
NEGATIVE = np.array([1, -1], np.float32).tobytes()
ONE = np.ones(1, np.float32).tobytes()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "byte 0: 0 bytes; neither a GGUF nor an imatrix.dat is so short"),
        (legacy(), "byte 0: 4 bytes; neither"),
        (b"hello\n", "byte 0: 6 bytes; neither"),
        (legacy((b"x", 1, ONE), count=0), "number of entries: found 0"),
        (legacy((b"x", 1, ONE), count=1 << 30), "number of entries: found 1,073,741,824"),
        (legacy((b"x", 1, ONE), count=-1), "number of entries: found -1"),
        (legacy((b"", 1, ONE * 4)), "entry 0: name: length: found 0"),
        (legacy((b"\xff", 1, ONE)), "entry 0: name: found"),
        (legacy((b"x\0", 1, ONE)), "allowed: text without NUL"),
        (legacy((b"xxxxx", 1, b"")), "number of sums: found 0"),
        (legacy((b"x", 1, ONE), (b"x", 1, ONE)), "'x' is there twice"),
        (legacy((b"x", 1, ONE * 2))[:-1], "entry 0: 2 sums: takes 8 bytes, 7 are left"),
        (legacy((b"x", 1, ONE), tail=b"123"), "number of chunks: takes 4 bytes"),
        (legacy((b"x", 1, ONE), tail=struct.pack("<ii", 1, 9)), "text that was run: takes 9"),
        (legacy((b"x", 1, ONE), tail=struct.pack("<ii", 1, 0) + b"z"), "1 bytes behind the last"),
        (legacy((b"x", 1, NAN)), "'x': sum 1, at byte 21: found nan; allowed: finite, not < 0"),
        (legacy((b"x", 1, NEGATIVE)), "found -1.0"),
    ],
)
def test_legacy_files_that_are_none(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError) as raised:
        open_imatrix(str(path), Limits())
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


HALVES = SUMS.astype(np.float16)
WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no counts": (lambda p: as_gguf(p, ()), "there is no 'x.weight.counts' beside it"),
    "three counts": (lambda p: as_gguf(p, (1, 1, 1, 1, 1)), "no multiple of its 5 counts"),
    "a count that is none": (lambda p: as_gguf(p, (1, np.inf)), "found a count that is no number"),
    "sums alone": (lambda p: as_gguf(p, y__in_sum=SUMS), "there is no 'y.in_sum2' beside it"),
    "counts alone": (lambda p: as_gguf(p, y__counts=SUMS), "there is no 'y.in_sum2' beside it"),
    "other sums": (lambda p: as_gguf(p, x__weight__in_sum=SUMS[0]), "has 6 sums"),
    "halves": (lambda p: as_gguf(p, x__weight__in_sum=HALVES), "found F16; allowed: F32"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_gguf_files_that_are_none(tmp_path: Path, kind: str) -> None:
    make, said = WRONG[kind]
    with pytest.raises(FormatError) as raised:
        open_imatrix(str(make(tmp_path / "i.gguf")), Limits())
    assert said in str(raised.value)


def test_a_model_is_no_importance_matrix(sample: Path) -> None:
    with pytest.raises(FormatError, match="is no importance matrix"):
        open_imatrix(str(sample), Limits())


def test_limits(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy((b"x", 1, ONE), (b"y", 1, ONE)))
    with pytest.raises(LimitError, match="entries of the importance matrix"):
        open_imatrix(str(path), Limits(max_items=1))
