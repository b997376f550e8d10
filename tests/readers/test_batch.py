"""The Arrow contract: batches of raw blocks, and kernels that see the very bytes that were read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import polars
import pyarrow as pa
import pytest

import anamnesis
from anamnesis.kernels import Window
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.batch import BlockReader, aligned, iter_windows
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import Planar, Strided
from anamnesis.readers.record_batches import block_batches, whole_batch
from anamnesis.readers.source import LocalFile


def address(array: pa.Array) -> int:
    return int(array.buffers()[1].address)


def test_blocks_of_a_gguf_tensor(sample: Path) -> None:
    tensor = next(t for t in load_model(str(sample)).tensors if t.name == "blk.0.attn_k.weight")
    batches = list(anamnesis.open_model(sample)[tensor.name].batches(max_bytes=10_000))
    table = pa.Table.from_batches(batches)
    assert table.schema.field("payload").type == pa.binary(20)
    assert table.num_rows == tensor.units == 192 * 576 // 32
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert metadata["anamnesis.encoding"] == "gguf-q4-1"
    assert json.loads(metadata["anamnesis.shape"]) == [192, 576]
    stored = tensor.components[0].stored
    raw = sample.read_bytes()[stored.offset : stored.offset + stored.nbytes]
    assert b"".join(table["payload"].to_pylist()) == raw


def test_nothing_is_copied_between_the_read_and_the_kernel(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = next(t for t in load_model(str(sample)).tensors if t.scheme == "gguf-q8-0")
    filled: list[int] = []
    read_into = LocalFile.read_into

    def spy(self: LocalFile, offset: int, buffer: np.ndarray) -> None:
        filled.append(buffer.ctypes.data)
        read_into(self, offset, buffer)

    monkeypatch.setattr(LocalFile, "read_into", spy)
    files = Files()
    reader = BlockReader(tensor, files, reuse=True)
    first = reader.read(Window(0, 100))
    assert (
        filled
        == [address(block_batches(tensor, first)[0]["payload"])]
        == [first.views["payload"].ctypes.data]
    )
    again = reader.read(Window(100, 200))
    assert again.views["payload"].ctypes.data == filled[0]
    files.close()


@pytest.mark.parametrize(
    ("count", "kind"), [(1024, np.uint8), (257, np.float32), (1 << 20, np.uint16)]
)
def test_buffers_begin_with_a_cache_line(count: int, kind: type) -> None:
    for _ in range(5):
        array = aligned(count, kind)
        assert array.shape == (count,)
        assert array.dtype == kind
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_public_batches_own_their_memory(sample: Path) -> None:
    batches = list(anamnesis.open_model(sample)["token_embd.weight"].batches(max_bytes=50_000))
    assert len({address(b["payload"]) for b in batches}) == len(batches) > 5
    reader = gguf.GGUFReader(sample)
    expected = next(t for t in reader.tensors if t.name == "token_embd.weight").data
    got = np.concatenate(
        [np.frombuffer(b["payload"].buffers()[1], np.uint8)[: len(b) * 34] for b in batches]
    )
    assert np.array_equal(got, expected.reshape(-1))


def test_layouts_in_columns_and_whole_parameters(tmp_path: Path) -> None:
    """A packed [in, out] matrix: windows are ranges of output columns, one row a packed line."""
    lines, width = 6, 40
    data = np.arange(lines * width, dtype=np.uint8).reshape(lines, width)
    scales = np.arange(3 * 20, dtype=np.uint8).reshape(3, 20)
    order = np.arange(5, dtype="<i4")
    path = tmp_path / "raw"
    path.write_bytes(data.tobytes() + scales.tobytes() + order.tobytes())
    with LocalFile(path) as file:
        stored = [
            Stored("q", "I32", (lines, 10), file.id, 0, data.nbytes),
            Stored("s", "F16", (3, 10), file.id, data.nbytes, scales.nbytes),
            Stored("o", "I32", (5,), file.id, data.nbytes + scales.nbytes, order.nbytes),
        ]
    components = (
        Component("qweight", stored[0], Strided(32, width)),
        Component("scales", stored[1], Strided(16, 20)),
        Component("g_idx", stored[2]),
    )
    tensor = Tensor("w", (10, 6), "gptq", "gptq", components, unit_elems=6)
    files = Files()
    reader = BlockReader(tensor, files, reuse=True)
    batch = Window(2, 9)
    blocks = reader.read(batch)
    assert [b.num_rows for b in block_batches(tensor, blocks)] == [lines, 3]
    assert np.array_equal(blocks.views["qweight"], data[:, 8:36])
    assert np.array_equal(blocks.views["scales"], scales[:, 4:18])
    inner = reader.within(blocks, batch, Window(4, 6))
    assert np.array_equal(inner["qweight"], data[:, 16:24])
    assert np.shares_memory(inner["qweight"], blocks.views["qweight"])
    params = reader.wholes()
    parameters = whole_batch(tensor, params)
    assert parameters is not None
    assert parameters["g_idx"][0].as_py() == order.tobytes()
    assert params["g_idx"].dtype == "I32"
    assert np.array_equal(params["g_idx"].array, order)
    files.close()


@pytest.mark.parametrize(
    ("width", "window", "calls"),
    [
        (40, Window(0, 40), 1),  # whole lines
        (4096, Window(512, 640), 4),  # parts near each other: read over what is between
        (4096, Window(4000, 4128), 4),  # reaches past the end of a line
        (12_000, Window(128, 8192), 8),
        (12_000, Window(8192, 8256), 250),  # parts far from each other
    ],
)
def test_parts_of_lines_in_few_calls(
    tmp_path: Path, reads: list[int], width: int, window: Window, calls: int
) -> None:
    lines = 250
    data = np.random.default_rng(1).integers(0, 256, (lines, width), np.uint8)
    path = tmp_path / "raw"
    path.write_bytes(bytes(7) + data.tobytes())
    with LocalFile(path) as file:
        stored = Stored("q", "U8", data.shape, file.id, 7, data.nbytes)
    component = Component("qweight", stored, Strided(8, width))
    tensor = Tensor("w", (width, lines), "gptq", "gptq", (component,), unit_elems=lines)
    files = Files()
    reader = BlockReader(tensor, files, reuse=True)
    reader.read(Window(0, window.stop - window.start)).views["qweight"][:] = 0xEE
    reads.clear()
    got = reader.read(window).views["qweight"]
    files.close()
    expected = np.zeros((lines, window.stop - window.start), np.uint8)
    part = data[:, window.start : window.stop]
    expected[:, : part.shape[1]] = part
    assert np.array_equal(got, expected[:, : got.shape[1]])
    assert len(reads) == calls or len(reads) < calls <= 8


def test_scan_streams_raw_blocks_to_engines(sample: Path) -> None:
    reader = anamnesis.scan(sample, tensors=["blk.0.attn_*"])
    frame = polars.from_arrow(reader.read_all())
    assert isinstance(frame, polars.DataFrame)
    counts = dict(frame.group_by("tensor").len().iter_rows())
    assert counts["blk.0.attn_k.weight"] == 192 * 576 // 32
    assert set(counts) == {
        "blk.0.attn_norm.weight",
        "blk.0.attn_k.weight",
        "blk.0.attn_output.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_v.weight",
    }


def test_to_numpy_is_owned_and_equal_to_gguf_py(sample: Path) -> None:
    import ml_dtypes

    model = anamnesis.open_model(sample)
    for tensor in gguf.GGUFReader(sample).tensors:
        got = model[tensor.name].to_numpy()
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
            expected = expected.astype(ml_dtypes.bfloat16)
            assert got.dtype == ml_dtypes.bfloat16
        assert got.shape == expected.shape
        assert got.tobytes() == expected.tobytes()
        assert got.flags.owndata or got.base.flags.owndata


def test_opening_reads_no_payload(
    tmp_path: Path,
    reads: list[int],
    write_safetensors: Callable[..., Path],
) -> None:
    """11 GB of declared payload in a sparse file; only the header is read."""
    header = {
        "w": {"dtype": "F8_E4M3", "shape": [110_000, 100_000], "data_offsets": [0, 11 * 10**9]}
    }
    header["w_scale"] = {
        "dtype": "F32",
        "shape": [1],
        "data_offsets": [11 * 10**9, 11 * 10**9 + 4],
    }
    text = json.dumps(header).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 11 * 10**9 + 4)
    reads.clear()
    found = anamnesis.inspect(path)
    assert found.schemes["fp8-tensor"].tensors == 1
    assert found.stored_bytes == 11 * 10**9 + 4
    assert sum(reads) < 1 << 20


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(("period", "units"), [(7, 28), (7, 25), (1, 4), (5, 5)])
def test_cycles_begin_again(tmp_path: Path, period: int, units: int, reuse: bool) -> None:
    lines = np.arange(period * 3, dtype=np.uint8).reshape(period, 3)
    path = tmp_path / "lines"
    path.write_bytes(lines.tobytes())
    file = LocalFile(str(path)).id
    stored = Stored("x", "U8", lines.shape, file, 0, lines.nbytes)
    access = Planar(8 * 3, period)
    tensor = Tensor("x", (units, 3), "s", "e", (Component("payload", stored, access),), 3)
    files = Files()
    reader = BlockReader(tensor, files, reuse=reuse)
    for start in range(units):
        for stop in range(start + 1, units + 1):
            batch = Window(start, stop)
            blocks = reader.read(batch)
            view = blocks.views["payload"]
            first = start if stop - start < period else 0
            expected = lines[(first + np.arange(min(period, stop - start))) % period]
            assert np.array_equal(view, expected)
            middle = Window((start + stop) // 2, stop)
            part = reader.within(blocks, batch, middle)["payload"]
            whole = stop - start >= period
            assert np.array_equal(part, view if whole else view[middle.start - start :])
            assert block_batches(tensor, blocks)[0].num_rows == len(view)
    files.close()


@pytest.mark.parametrize("width", [6, 20_000])
@pytest.mark.parametrize("reuse", [True, False])
def test_stacks_in_columns_are_read_matrix_by_matrix(
    tmp_path: Path, width: int, reuse: bool
) -> None:
    matrices, lines = 3, 5
    data = np.random.default_rng(2).integers(0, 256, (matrices, lines, width), np.uint8)
    path = tmp_path / "stack"
    path.write_bytes(b"?" + data.tobytes())
    stored = Stored("x", "U8", data.shape, LocalFile(str(path)).id, 1, data.nbytes)
    access = Strided(16, width, lines=lines)
    shape, each = (matrices, width // 2, lines), width // 2
    tensor = Tensor("x", shape, "s", "e", (Component("payload", stored, access),), lines)
    files = Files()
    reader = BlockReader(tensor, files, reuse=reuse)
    for units in (each, each - 1, 2):
        windows = list(iter_windows(tensor, units, 1))
        assert [w.start for w in windows] == [1, *(w.stop for w in windows[:-1])]
        assert windows[-1].stop == tensor.units == matrices * each
        for window in (windows[0], windows[1], *windows[-3:]):
            assert 0 < window.stop - window.start <= units
            matrix, first = divmod(window.start, each)
            last = (window.stop - 1) % each + 1
            assert (window.stop - 1) // each == matrix
            view = reader.read(window).views["payload"]
            assert np.array_equal(view, data[matrix, :, 2 * first : 2 * last])
            inner = Window(window.stop - 1, window.stop)
            part = reader.within(reader.read(window), window, inner)["payload"]
            assert np.array_equal(part, view[:, -2:])
    files.close()
