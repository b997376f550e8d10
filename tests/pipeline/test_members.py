"""Checksums of archive entries from the spans that were read, wherever the cuts fall."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import IntegrityError
from anamnesis.pipeline import members as module
from anamnesis.pipeline.members import check_members, join
from anamnesis.readers.base import Member
from anamnesis.readers.raw import SpanCrc
from anamnesis.readers.source import LocalFile

RNG = np.random.default_rng(31)
DATA = RNG.bytes(100_000)


def span(start: int, stop: int, path: str = "", name: str = "m", crc: int | None = None) -> SpanCrc:
    return SpanCrc(path, name, start, stop, zlib.crc32(DATA[start:stop]) if crc is None else crc)


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (5, 0), (1, 1), (1000, 99_000), (99_999, 1)])
def test_join(sizes: tuple[int, int]) -> None:
    first, second = DATA[: sizes[0]], DATA[sizes[0] : sum(sizes)]
    joined = join(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


def test_join_of_a_length_that_fits_in_no_memory() -> None:
    """Doubling a run of zeros, 50 times, is the same as one join of its length."""
    crc, size = zlib.crc32(bytes(8)), 8
    for _ in range(50):
        crc, size = join(crc, crc, size), 2 * size
    one = zlib.crc32(bytes(8))
    assert join(one, crc, size) == join(crc, one, 8)


@pytest.mark.parametrize(
    "cuts",
    [
        [],
        [(0, 100_000)],
        [(0, 50_000), (50_000, 100_000)],
        [(50_000, 100_000), (128, 50_000)],
        [(128, 100_000)],
        [(10, 20), (30, 40), (40, 41), (99_999, 100_000)],
        [(10, 20), (10, 20), (15, 30), (20, 25)],  # storages that tensors share
        [(0, 0), (0, 10), (5, 100_000)],
    ],
)
def test_spans_and_what_they_leave(cuts: list[tuple[int, int]], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"?" * 9 + DATA)
    with LocalFile(path) as file:
        name = str(path)
        right = Member("m", file.id, 9, len(DATA), len(DATA), zlib.crc32(DATA))
        other = Member("n", file.id, 9, 50, 50, zlib.crc32(DATA[:50]))
        spans = [span(a, b, name) for a, b in cuts]
        # Spans of a member of that name in another file, and of another member, count for nothing.
        spans += [span(0, 100_000, "elsewhere", crc=1), span(0, 7, name, "x", crc=1)]
        check_members((right, other), spans, lambda wanted: file)
        wrong = Member("m", file.id, 9, len(DATA), len(DATA), zlib.crc32(DATA) ^ 1)
        with pytest.raises(IntegrityError, match="member 'm': CRC-32"):
            check_members((other, wrong), spans, lambda wanted: file)
        used = [c for c in cuts if c[0] < c[1]]
        if used:  # what a task read is what counts, not what is read again
            start = min(a for a, _ in used)
            spoilt = [s._replace(crc32=s.crc32 ^ 5) if s.start == start else s for s in spans]
            with pytest.raises(IntegrityError):
                check_members((right,), spoilt, lambda wanted: file)


def test_only_what_is_left_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with LocalFile(path) as file:
        read: list[tuple[int, int]] = []

        class Spy:
            def read_into(self, offset: int, buffer: memoryview) -> None:
                read.append((offset, len(buffer)))
                file.read_into(offset, buffer)

        member = Member("m", file.id, 0, len(DATA), len(DATA), zlib.crc32(DATA))
        spans = [span(128, 60_000, str(path)), span(60_001, 100_000, str(path))]
        check_members((member,), spans, lambda wanted: Spy())  # type: ignore[arg-type, return-value]
        assert read == [(0, 128), (60_000, 1)]


@pytest.mark.parametrize("executor", ["serial", "threads", "distributed"])
def test_every_executor_checks(executor: str, tmp_path: Path) -> None:
    path, out = tmp_path / "m.npz", tmp_path / "out.safetensors"
    np.savez(path, a=RNG.standard_normal(3_000), b=np.asfortranarray(RNG.standard_normal((40, 50))))
    anamnesis.remember(path, out, executor=executor, threads=1)
    before = out.read_bytes()
    data = bytearray(path.read_bytes())
    data[20_000] ^= 4
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"member 'a\.npy'"):
        anamnesis.remember(path, out, executor=executor, threads=1, overwrite=True)
    assert out.read_bytes() == before


def test_nothing_is_read_twice_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only headers are left over of stored arrays in row-major order."""
    path = tmp_path / "m.npz"
    np.savez(path, a=RNG.standard_normal(300_000), b=RNG.standard_normal(5))
    counted: list[int] = []
    read = module._read

    def spy(file: LocalFile, member: Member, start: int, stop: int, *rest: object) -> int:
        counted.append(stop - start)
        return read(file, member, start, stop, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read", spy)
    anamnesis.remember(path, tmp_path / "out.safetensors")
    assert sum(counted) == 2 * 128


def test_members_of_nothing() -> None:
    check_members((), [span(0, 1)], lambda wanted: pytest.fail(str(wanted)))
