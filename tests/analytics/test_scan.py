"""`scan`: one schema, decoded rows, and that nothing is read which no column needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import anamnesis
from anamnesis.analytics.scan.run import RAW, decoded_schema
from anamnesis.errors import LimitError, UnsupportedError, UsageError
from anamnesis.pipeline.values import Values
from anamnesis.readers import source

Write = Callable[..., Path]
RNG = np.random.default_rng(5)


@pytest.fixture
def gptq(tmp_path: Path, write_safetensors: Write) -> Path:
    """512 outputs of 1,024 inputs in groups of 128, four bits."""
    words = RNG.integers(0, 1 << 32, (128, 512), dtype=np.uint32)
    zeros = RNG.integers(0, 1 << 32, (8, 64), dtype=np.uint32)
    scales = RNG.random((8, 512)).astype("<f2")
    entries = {
        "m.qweight": ("I32", words.shape, words.tobytes()),
        "m.qzeros": ("I32", zeros.shape, zeros.tobytes()),
        "m.scales": ("F16", scales.shape, scales.tobytes()),
    }
    return write_safetensors(tmp_path / "gptq.safetensors", entries)


def rows(table: Any, name: str) -> Any:
    """The values of one tensor of a decoded scan, flat."""
    mine = table.filter(pc.equal(table["tensor"].cast(pa.utf8()), name))
    return pc.list_flatten(mine["values"]).to_numpy()


# --- the schema


def test_one_schema_whatever_the_formats(sample: Path, fp8_model: Path, gptq: Path) -> None:
    for path in (sample, fp8_model, gptq):
        assert anamnesis.scan(path).schema.equals(RAW, check_metadata=True)
        for dtype in ("f32", "bf16"):
            schema = anamnesis.scan(path, decode=dtype).schema
            assert schema.equals(decoded_schema(dtype.upper()), check_metadata=True)
    assert isinstance(anamnesis.scan(sample), pa.RecordBatchReader)


def test_columns_come_in_the_order_asked_for(sample: Path) -> None:
    table = anamnesis.scan(sample, columns=["scale", "tensor"]).read_all()
    assert table.column_names == ["scale", "tensor"]
    assert anamnesis.scan(sample, columns="block").read_all().column_names == ["block"]


def test_one_dictionary_for_the_whole_scan(sample: Path) -> None:
    """So that batches concatenate without unifying names."""
    batches = list(anamnesis.scan(sample, memory="1MiB"))
    assert len(batches) > 20
    names = {batch["tensor"].dictionary.buffers()[2].address for batch in batches}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"columns": ["scale", "values"]}, "'values'; allowed is each of tensor, .*decode='f32'"),
        ({"columns": ["payload"], "decode": "f32"}, "'payload'; allowed is each of tensor"),
        ({"columns": []}, "none; allowed"),
        ({"columns": ["scale", "scale"]}, "once"),
        ({"decode": "float32"}, r"'float32'; allowed: bf16 \| f32; did you mean 'f32'\?; None is"),
        ({"memory": "many"}, "many"),
    ],
)
def test_settings_that_cannot_be_meant(sample: Path, settings: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        anamnesis.scan(sample, **settings)


# --- decoded rows


@pytest.mark.parametrize("memory", ["8MiB", None])
def test_decoded_rows_are_to_numpy(sample: Path, memory: str | None) -> None:
    model = anamnesis.open_model(sample)
    single = anamnesis.scan(sample, decode="bf16", memory=memory).read_all()
    real = anamnesis.scan(sample, decode="f32", memory=memory).read_all()
    for name, tensor in model.items():
        values = tensor.to_numpy().astype(ml_dtypes.bfloat16)
        assert np.array_equal(rows(single, name), values.view(np.uint16).reshape(-1))
        # BF16 is the float32 value, rounded once.
        again = rows(real, name).astype(np.float32).astype(ml_dtypes.bfloat16)
        assert np.array_equal(again.view(np.uint16), values.view(np.uint16).reshape(-1))
    found = real.group_by("tensor").aggregate([("row", "count")]).to_pydict()
    assert dict(zip(found["tensor"], found["row_count"], strict=True)) == {
        name: tensor.shape[0] if tensor.ndim > 1 else 1 for name, tensor in model.items()
    }


def test_decoded_rows_of_every_granularity(fp8_model: Path) -> None:
    model = anamnesis.open_model(fp8_model)
    for name in ("a.weight", "b.weight", "c.weight"):
        bits = model[name].to_numpy().view(np.uint16)
        for memory in ("6MiB", "64MiB"):
            at = 0
            for batch in anamnesis.scan(fp8_model, name, decode="bf16", memory=memory):
                part = batch["values"].values.to_numpy()
                assert np.array_equal(part, bits.reshape(-1)[at : at + len(part)])
                assert np.array_equal(batch["row"], at // bits.shape[1] + np.arange(len(batch)))
                at += len(part)
            assert at == bits.size


def test_numbers_of_other_kinds(tmp_path: Path, write_safetensors: Write) -> None:
    numbers = {
        "i64": ("I64", np.array([[1, -2], [1 << 40, 3]], "<i8")),
        "u8": ("U8", np.array([0, 255], "u1")),
        "bool": ("BOOL", np.array([True, False, True])),
        "f64": ("F64", np.array([0.1, np.inf, np.nan], "<f8")),
        "f16": ("F16", np.array(1.5, "<f2")),
        "none": ("F32", np.empty((0, 4), "<f4")),
        "flat": ("F32", np.empty((4, 0), "<f4")),
    }
    entries = {name: (d, a.shape, a.tobytes()) for name, (d, a) in numbers.items()}
    path = write_safetensors(tmp_path / "m.safetensors", entries)
    real = anamnesis.scan(path, decode="f32").read_all()
    single = anamnesis.scan(path, decode="bf16").read_all()
    for name, (_, array) in numbers.items():
        wanted = array.astype(np.float32).reshape(-1)
        np.testing.assert_array_equal(rows(real, name).astype(np.float32), wanted)
        bits = rows(single, name).astype(np.uint16).view(ml_dtypes.bfloat16)
        rounded = wanted.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(bits.astype(np.float32), rounded)
    assert set(anamnesis.scan(path).read_all()["tensor"].to_pylist()) == set(numbers) - {
        "none",
        "flat",
    }


def test_complex_numbers_are_refused_before_reading(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", z=np.array([1j], np.complex64), x=np.ones(3, np.float32))
    with pytest.raises(UnsupportedError, match="C64 is no real number"):
        anamnesis.scan(tmp_path / "m.npz", decode="f32")
    assert anamnesis.scan(tmp_path / "m.npz", "x", decode="f32").read_all().num_rows == 1
    assert anamnesis.scan(tmp_path / "m.npz").read_all().num_rows == 2


def test_long_rows_are_cut(tmp_path: Path, write_safetensors: Write) -> None:
    size = (1 << 18) + 5
    data = RNG.standard_normal((2, size)).astype("<f4")
    path = write_safetensors(tmp_path / "m.safetensors", {"x": ("F32", (2, size), data.tobytes())})
    table = anamnesis.scan(path, decode="f32").read_all()
    assert table["row"].to_pylist() == [0, 0, 1, 1]
    assert table["col"].to_pylist() == [0, 1 << 18] * 2
    assert np.array_equal(rows(table, "x").astype(np.float32), data.reshape(-1))
    raw = anamnesis.scan(path).read_all()
    assert raw["elems"].to_pylist() == [1 << 18, 5] * 2
    assert b"".join(raw["payload"].to_pylist()) == data.tobytes()


# --- what is read


def opened(path: Path, reads: list[int]) -> anamnesis.model.lazy.OpenModel:
    """The model; what opening it reads does not count."""
    model = anamnesis.open_model(path)
    reads.clear()
    return model


@pytest.mark.parametrize(
    ("columns", "read"),
    [
        (["tensor", "block", "row", "col", "elems"], 0),
        (["scale"], 8 * 512 * 2),
        (["zero"], 8 * 64 * 4),
        (["payload"], 128 * 512 * 4),
        (["scales", "zero", "tensor"], 8 * 512 * 2 + 8 * 64 * 4),
        (None, 8 * 512 * 2 + 8 * 64 * 4 + 128 * 512 * 4),
    ],
)
@pytest.mark.parametrize("memory", ["256KiB", None])
def test_bytes_read_for_columns_of_gptq(
    gptq: Path,
    reads: list[int],
    columns: Any,
    read: int,
    memory: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "_AHEAD", 0)  # some KiB behind small reads, which are not counted
    table = opened(gptq, reads).scan(columns=columns, memory=memory).read_all()
    assert table.num_rows == 8 * 512 + 128
    assert sum(reads) == read


@pytest.mark.parametrize(
    ("columns", "decode", "read"),
    [
        (["tensor", "row"], None, 0),
        (["tensor", "row", "col"], "f32", 0),
        (["scale"], None, 4 * (8 * 40 + 3000 + 1)),
        (["payload"], None, 5_000_000 + 9_999_000 + 210_000 + 20_000 + 24),
        (["values"], "f32", 5_000_000 + 9_999_000 + 210_000 + 20_000 + 24 + 4 * (320 + 3001)),
    ],
)
def test_bytes_read_for_columns_of_fp8(
    fp8_model: Path, reads: list[int], columns: Any, decode: Any, read: int
) -> None:
    opened(fp8_model, reads).scan(columns=columns, decode=decode).read_all()
    assert sum(reads) == read


def test_tensors_that_do_not_match_are_not_read(fp8_model: Path, reads: list[int]) -> None:
    model = opened(fp8_model, reads)
    with pytest.raises(UsageError, match=r"no tensor fits the pattern '\[xyz\]\*'"):
        model.scan(["c.*", "[xyz]*"])
    assert sum(reads) == 0
    table = model.scan(["c.*", "ids"], columns=["tensor", "payload"]).read_all()
    assert set(table["tensor"].to_pylist()) == {"c.weight", "ids"}
    assert sum(reads) == 210_000 + 24


def test_a_stream_that_is_left_alone_reads_nothing(fp8_model: Path, reads: list[int]) -> None:
    reader = opened(fp8_model, reads).scan("b.*", decode="f32")
    assert sum(reads) == 0
    next(iter(reader))
    assert 0 < sum(reads) < 9_999_000


# --- memory


@pytest.mark.parametrize("decode", [None, "f32", "bf16"])
def test_batches_fit_and_do_not_change_the_table(sample: Path, decode: Any) -> None:
    whole = anamnesis.scan(sample, decode=decode).read_all()
    budget = 6 << 20
    batches = list(anamnesis.scan(sample, decode=decode, memory=budget))
    assert max(batch.nbytes for batch in batches) <= budget // 2
    parts = pa.Table.from_batches(batches)
    assert parts.combine_chunks().equals(whole.combine_chunks())


@pytest.mark.parametrize(("decode", "memory"), [("f32", "1MiB"), (None, "4KiB")])
def test_a_budget_that_cannot_do_is_refused_before_reading(
    fp8_model: Path, reads: list[int], decode: Any, memory: str
) -> None:
    tensor = opened(fp8_model, reads)["b.weight"]
    with pytest.raises(LimitError, match=r"b\.weight: .*set it to at least") as caught:
        tensor.scan(decode=decode, memory=memory)
    need = caught.value.need
    assert need is not None
    with pytest.raises(LimitError):
        tensor.scan(decode=decode, memory=need - 1)
    assert sum(reads) == 0
    assert tensor.scan(decode=decode, memory=need).read_all().num_rows == 3000


def test_strips_shrink_with_the_budget(tmp_path: Path, write_safetensors: Write) -> None:
    """Layouts in columns are read in strips of many windows; a small budget has smaller ones."""
    words = RNG.integers(0, 1 << 32, (512, 4096), dtype=np.uint32)
    zeros = np.zeros((32, 512), np.uint32)
    scales = np.ones((32, 4096), "<f2")
    entries = {
        "m.qweight": ("I32", words.shape, words.tobytes()),
        "m.qzeros": ("I32", zeros.shape, zeros.tobytes()),
        "m.scales": ("F16", scales.shape, scales.tobytes()),
    }
    path = write_safetensors(tmp_path / "m.safetensors", entries)
    wanted = anamnesis.scan(path, decode="bf16").read_all()["values"].combine_chunks()
    found = anamnesis.scan(path, decode="bf16", memory="6MiB").read_all()["values"]
    assert found.combine_chunks().equals(wanted)


# --- no copy


def test_payload_is_where_the_file_was_read_to(
    fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[tuple[int, int]] = []
    preadv = os.preadv

    def spy(fd: int, buffers: list[memoryview], offset: int) -> int:
        for view in buffers:
            array = np.frombuffer(view, np.uint8)
            targets.append((array.ctypes.data, array.nbytes))
        got: int = preadv(fd, buffers, offset)
        return got

    monkeypatch.setattr("anamnesis.readers.source.os.preadv", spy)
    batches = list(anamnesis.scan(fp8_model, "a.weight", columns=["payload"]))
    for batch in batches:
        buffer = batch["payload"].buffers()[2]
        assert (buffer.address, buffer.size) in targets


def test_values_are_where_they_were_decoded_to(
    fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs: list[int] = []
    fill = Values.fill

    def spy(self: Any, first: int, out: Any) -> None:
        outs.append(out.ctypes.data)
        fill(self, first, out)

    monkeypatch.setattr(Values, "fill", spy)
    for decode in ("f32", "bf16"):
        batches = list(anamnesis.scan(fp8_model, "b.weight", decode=decode))
        assert {b["values"].values.buffers()[1].address for b in batches} <= set(outs)
        numbers = batches[0]["values"].values.to_numpy(zero_copy_only=True)
        assert numbers.ctypes.data == batches[0]["values"].values.buffers()[1].address


# --- where it is used


def test_an_arrow_dataset_is_scanned_as_its_source(fp8_model: Path, tmp_path: Path) -> None:
    """Recovered to Arrow, rows are the decoded ones, from batches that lie apart."""
    anamnesis.remember(fp8_model, tmp_path / "out", to="arrow", dtype="f32", threads=1)
    wanted = anamnesis.scan(fp8_model, "*.weight", columns=["row", "values"], decode="f32")
    found = anamnesis.scan(tmp_path / "out", "*.weight", columns=["row", "values"], decode="f32")
    assert found.read_all().combine_chunks().equals(wanted.read_all().combine_chunks())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_streams_that_are_dropped_close_their_files(fp8_model: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        reader = anamnesis.scan(fp8_model, decode="bf16", memory="8MiB")
        reader.read_next_batch()
        del reader
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_api_is_light_until_it_is_used() -> None:
    code = (
        "import sys, anamnesis\nfrom anamnesis import open_model, scan\n"
        "print([m for m in ('numpy', 'pyarrow', 'numba', 'rich', 'dask') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == "[]"
