"""Raw bytes of stored tensors: deflate, strides and byte order undone in windows of any size."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.errors import FormatError
from anamnesis.readers import raw as module
from anamnesis.readers.base import Member, Stored, View
from anamnesis.readers.inflate import Inflater
from anamnesis.readers.raw import SpanCrc, open_raw
from anamnesis.readers.source import LocalFile
from anamnesis.readers.strides import column_major, gather, row_major, view_strides

RNG = np.random.default_rng(11)
PREFIX = 37  # bytes before the data, so that nothing is aligned


def deflate(data: bytes, level: int = 6) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def write(folder: Path, packed: bytes, data: bytes, deflated: bool) -> tuple[LocalFile, Member]:
    path = folder / "file"
    path.write_bytes(b"\xee" * PREFIX + packed + b"\xee" * 5)
    file = LocalFile(path)
    return file, Member("m", file.id, PREFIX, len(packed), len(data), zlib.crc32(data), deflated)


def plain(array: Any) -> bytes:
    """What a reader must give: little-endian numbers in row-major order."""
    return bytes(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())


@pytest.mark.parametrize("deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_every_combination(
    deflated: bool, order: str, layout: str, kind: str, step: int, tmp_path: Path
) -> None:
    values = RNG.integers(0, 200, (13, 7, 5)).astype(f"{order}{kind}")
    array = np.asfortranarray(values) if layout == "F" else values
    data = b"header" + array.tobytes("A")
    packed = deflate(data) if deflated else data
    file, member = write(tmp_path, packed, data, deflated)
    strides = column_major(array.shape) if layout == "F" else None
    swap = array.itemsize if order == ">" and array.itemsize > 1 else 0
    offset = 6 if deflated else PREFIX + 6
    stored = Stored(
        "t", "F32", array.shape, file.id, offset, array.nbytes, View(strides, swap, member)
    )
    raw = open_raw(stored, file)
    row = array.nbytes // 13
    got = np.empty(array.nbytes, np.uint8)
    for first in range(0, 13, step):
        last = min(13, first + step)
        raw.read_into(first * row, got[first * row : last * row])
    assert got.tobytes() == plain(array)
    spans = raw.spans()
    if deflated:
        assert spans == [SpanCrc(file.path, "m", 0, len(data), zlib.crc32(data))]
    elif layout == "C":
        assert spans == [SpanCrc(file.path, "m", 6, len(data), zlib.crc32(data[6:]))]
    else:
        assert spans == []
    file.close()


def test_a_span_is_what_was_read_in_order(tmp_path: Path) -> None:
    data = RNG.bytes(1000)
    file, member = write(tmp_path, data, data, False)
    stored = Stored("t", "U8", (990,), file.id, PREFIX + 10, 990, View(member=member))
    raw = open_raw(stored, file)
    buffer = np.empty(100, np.uint8)
    assert raw.spans() == []
    for begin in (200, 300, 200, 700, 400):  # again, and past a gap
        raw.read_into(begin, buffer)
        assert buffer.tobytes() == data[10 + begin : 110 + begin]
    assert raw.spans() == [SpanCrc(file.path, "m", 210, 510, zlib.crc32(data[210:510]))]
    raw.read_into(0, buffer[:0])
    file.close()


class TestInflater:
    DATA = bytes(RNG.integers(0, 4, 1 << 20, dtype=np.uint8))

    def test_forwards_backwards_and_the_checksum_once(self, tmp_path: Path) -> None:
        file, member = write(tmp_path, deflate(self.DATA), self.DATA, True)
        inflater = Inflater(member, file)
        for start, stop in [(5, 9), (0, 3), (300_000, 800_000), (10, 20), (0, 1 << 20), (7, 8)]:
            buffer = bytearray(stop - start)
            inflater.read_into(start, buffer)
            assert buffer == self.DATA[start:stop]
            count, crc = inflater.inflated
            assert crc == zlib.crc32(self.DATA[:count])
        assert inflater.inflated == (len(self.DATA), zlib.crc32(self.DATA))
        file.close()

    def test_many_small_reads_are_cheap(self, tmp_path: Path) -> None:
        """Each looks into the chunk at hand; nothing of the input is copied for it."""
        file, member = write(tmp_path, deflate(self.DATA), self.DATA, True)
        inflater = Inflater(member, file)
        chunks: list[int] = []
        inflate = inflater._inflate
        inflater._inflate = lambda most: chunks.append(most) or inflate(most)  # type: ignore
        buffer = bytearray(3)
        for start in range(0, 300_000, 3):
            inflater.read_into(start, buffer)
        assert len(chunks) == 2
        file.close()

    def test_the_start_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file, member = write(tmp_path, deflate(self.DATA), self.DATA, True)
        inflater = Inflater(member, file, chunk_bytes=16)
        buffer = bytearray(16)
        inflater.read_into(0, buffer)
        assert inflater.inflated[0] == 16
        file.close()

    @pytest.mark.parametrize("declared", [-1, 1, 1000, -1000])
    @pytest.mark.parametrize("size", [2000, 600_000])
    def test_another_length_than_declared(self, declared: int, size: int, tmp_path: Path) -> None:
        data = self.DATA[:size]
        file, member = write(tmp_path, deflate(data), bytes(size + declared), True)
        with pytest.raises(FormatError, match=r"member 'm': inflates to (fewer|more) than"):
            Inflater(member, file).drain()
        with pytest.raises(FormatError, match=r"member 'm': inflates to (fewer|more) than"):
            Inflater(member, file).read_into(0, bytearray(member.nbytes))
        file.close()

    @pytest.mark.parametrize("size", [0, 1, 100_000])
    @pytest.mark.parametrize("extra", [b"\0", b"x" * 100_000])
    def test_bytes_after_the_end(self, size: int, extra: bytes, tmp_path: Path) -> None:
        data = self.DATA[:size]
        file, member = write(tmp_path, deflate(data) + extra, data, True)
        with pytest.raises(FormatError, match="bytes after the end of its deflate stream"):
            Inflater(member, file).drain()
        file.close()

    @pytest.mark.parametrize("size", [0, 1, 100_000])
    def test_cut_short(self, size: int, tmp_path: Path) -> None:
        data = self.DATA[:size]
        packed = deflate(data)
        for cut in {1, 2, len(packed) // 2, len(packed)} - {0}:
            file, member = write(tmp_path, packed[:-cut], data, True)
            with pytest.raises(FormatError, match=r"member 'm': (inflates to fewer|.* no end)"):
                Inflater(member, file).drain()
            file.close()

    def test_broken_codes(self, tmp_path: Path) -> None:
        file, member = write(tmp_path, b"\xff" * 50, bytes(100), True)
        with pytest.raises(FormatError, match="broken deflate stream"):
            Inflater(member, file).drain()
        file.close()

    def test_empty_blocks_before_the_end(self, tmp_path: Path) -> None:
        packed = b"\0\0\0\xff\xff" * 30_000 + deflate(b"abc")
        file, member = write(tmp_path, packed, b"abc", True)
        assert Inflater(member, file).drain() == zlib.crc32(b"abc")
        file.close()


def test_strips_of_a_deflated_entry_inflate_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPOOL_BYTES", 10_000)
    array = np.asfortranarray(RNG.integers(0, 5, (600, 500)).astype("<u2"))
    data = b"header" + array.tobytes("A")
    file, member = write(tmp_path, deflate(data), data, True)
    view = View((1, 600), 0, member)
    raw = open_raw(Stored("t", "U16", array.shape, file.id, 6, array.nbytes, view), file)
    restarts: list[int] = []
    monkeypatch.setattr(Inflater, "_restart", lambda self: restarts.append(1))
    strip = np.empty(1000 * 20, np.uint8)
    for row in range(0, 600, 20):
        raw.read_into(1000 * row, strip)
        assert strip.tobytes() == plain(array[row : row + 20])
    assert not restarts
    assert raw.spans() == [SpanCrc(file.path, "m", 0, len(data), zlib.crc32(data))]
    file.close()


def strided(base: Any, shape: tuple[int, ...], strides: tuple[int, ...], first: int) -> Any:
    steps = [s * base.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(base[first:], shape, steps)


@pytest.mark.parametrize("kind", ["u1", "<u2", "<f4", "V3", "<c16"])
def test_gather_is_as_strided(kind: str) -> None:
    base = np.frombuffer(RNG.bytes(40_000 * np.dtype(kind).itemsize), kind)

    def read(element: int, target: Any) -> None:
        assert (target.ndim, target.dtype) == (1, np.uint8)
        target[:] = base[element : element + len(target) // base.itemsize].view(np.uint8)

    for _ in range(300):
        rank = int(RNG.integers(1, 5))
        shape = tuple(int(n) for n in RNG.integers(1, 7, rank))
        strides = tuple(int(n) for n in RNG.choice([0, 1, 2, 3, 7, 50, 999], rank))
        first = int(RNG.integers(0, 9))
        out = np.empty(shape, kind)
        gather(read, first, shape, strides, out)
        assert out.tobytes() == strided(base, shape, strides, first).tobytes()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((3000, 400), (1, 3000)),
        ((3000, 400), (1, 100_000)),
        ((70, 60, 50), (1, 70, 4200)),
        ((5000,), (5001,)),
        ((1_000_000,), (3,)),
        ((1_000_000,), (0,)),
        ((2, 1_000_000), (1_000_000, 1)),
        ((300, 1, 300), (300, 7, 0)),
    ],
)
def test_reads_are_few_and_memory_is_bounded(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    extent = 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
    base = np.arange(extent, dtype=np.uint32)
    sizes: list[int] = []

    def read(element: int, target: Any) -> None:
        sizes.append(target.nbytes)
        target[:] = base[element : element + len(target) // 4].view(np.uint8)

    out = np.empty(shape, np.uint32)
    gather(read, 0, shape, strides, out)
    assert np.array_equal(out, strided(base, shape, strides, 0))
    assert max(sizes) <= 512 << 10
    assert len(sizes) <= 1 + sum(sizes) // 50_000 + min(math.prod(shape), 5000)
    assert sum(sizes) <= 2 * out.nbytes + 16_384 * max(shape)


def test_orders() -> None:
    assert row_major((2, 3, 4)) == (12, 4, 1)
    assert column_major((2, 3, 4)) == (1, 2, 6)
    assert view_strides((2, 3), (1, 2)) == (1, 2)
    assert view_strides((2, 3), (3, 1)) is None
    assert view_strides((1, 3), (77, 1)) is None
    assert view_strides((5, 1), (1, 5)) is None
    assert view_strides((0, 3), (1, 0)) is None
    assert view_strides((), ()) is None


@pytest.mark.parametrize("swap", [0, 4])
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((5, 6, 7), (1, 5, 30)), ((30, 7), (1, 30)), ((210,), (3,)), ((2, 3, 1, 35), (105, 1, 9, 3))],
)
def test_ranges_that_cut_slices_and_elements(
    shape: tuple[int, ...], strides: tuple[int, ...], swap: int, tmp_path: Path
) -> None:
    """Packed layouts are read in columns, and a view may lie any way below them."""
    values = np.arange(700, dtype=">u4" if swap else "<u4")
    file, member = write(tmp_path, values.tobytes(), values.tobytes(), False)
    view = View(strides, swap, member)
    raw = open_raw(Stored("t", "I32", shape, file.id, PREFIX, 840, view), file)
    expected = plain(strided(values, shape, strides, 0))
    for begin in (0, 1, 4, 22, 28, 100, 421, 835, 839):
        for nbytes in (0, 1, 3, 4, 27, 28, 130, 400, 840):
            out = np.empty(max(0, min(nbytes, 840 - begin)), np.uint8)
            raw.read_into(begin, out)
            assert out.tobytes() == expected[begin : begin + nbytes]
    file.close()
