"""The Arrow IPC sink, read back by pyarrow, Polars and DuckDB."""

from __future__ import annotations

import json
import os
import pickle
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.ipc
import pytest

from anamnesis.errors import IntegrityError, LimitError, UnsupportedError
from anamnesis.writers import WRITERS, arrow, arrow_slot, writer
from anamnesis.writers.arrow_slot import ArrowSlot
from anamnesis.writers.base import Item, Layout, Storage

BITS = Storage(bf16="uint16")
NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I64": np.int64}
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "norm": (17,),
    "matrix": (37, 13),
    "conv": (5, 3, 4),
    "experts": (2, 3, 4, 5),
    "column": (301, 1),
    "one": (1, 1),
    "longest": (1, 5000),
    "empty": (0,),
    "no rows": (0, 7),
    "no rows, deep": (3, 0, 7),
    "no columns": (6, 0),
    "no columns, deep": (2, 3, 0),
    "слой.重み.é🦙": (3, 2),
    "": (2, 2),
    "n" * 300: (4, 4),
}


def make_items(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> list[Item]:
    return [Item(n, s, dtype, int(np.prod(s, dtype=object)), "gptq") for n, s in shapes.items()]


def make_values(items: Sequence[Item], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    numbers = []
    for item in items:
        kind = np.dtype(NUMPY[item.dtype])
        numbers.append(rng.integers(0, 256, item.elems * kind.itemsize, np.uint8).view(kind))
    return numbers


def create(layout: Layout) -> list[int]:
    fds = []
    for file in layout.files:
        Path(file.path).parent.mkdir(exist_ok=True)
        fds.append(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
        os.ftruncate(fds[-1], file.nbytes)
        for offset, data in file.fixed:
            assert os.pwrite(fds[-1], data, offset) == len(data)
    return fds


def cut(count: int, sizes: random.Random, largest: int) -> list[tuple[int, int]]:
    windows, start = [], 0
    while start < count:
        stop = min(count, start + sizes.randint(1, largest))
        windows.append((start, stop))
        start = stop
    return windows


def store(layout: Layout, values: Sequence[Any], largest: int = 64, seed: int = 0) -> None:
    """Write all values through their slots, in windows of random size and order."""
    sizes = random.Random(seed)
    fds = create(layout)
    work = [
        (number, window)
        for number, data in enumerate(values)
        for window in cut(len(data), sizes, largest)
    ]
    sizes.shuffle(work)
    try:
        for number, (start, stop) in work:
            file, slot = layout.places[number]
            slot.write(fds[file], start, values[number][start:stop])
    finally:
        for fd in fds:
            os.close(fd)


def rows_of(table: pa.Table, item: Item) -> list[Any]:
    """The rows of one tensor as numpy views, in row order; row numbers must be 0, 1, 2, …"""
    mask = pa.compute.equal(table["tensor"], item.name)
    part = table.filter(mask)
    assert part["row"].to_pylist() == list(range(len(part)))
    rows = []
    for chunk in part["values"].chunks:
        offsets = chunk.offsets.to_numpy()
        flat = np.frombuffer(chunk.values.buffers()[1] or b"", NUMPY[item.dtype])
        rows += [flat[a:b] for a, b in pairwise(offsets)]
    return rows


def assert_stored(table: pa.Table, items: Sequence[Item], values: Sequence[Any]) -> None:
    table.validate(full=True)
    assert table.num_rows == sum(int(np.prod(i.shape[:-1], dtype=int)) for i in items)
    for item, data in zip(items, values, strict=True):
        shape = (1, item.elems) if len(item.shape) < 2 else (-1, item.shape[-1])
        matrix = data.reshape(shape) if item.elems else data
        rows = rows_of(table, item)
        assert len(rows) == int(np.prod(item.shape[:-1], dtype=int))
        for number, row in enumerate(rows):
            wanted = matrix[number] if item.elems else data
            assert row.tobytes() == wanted.tobytes(), (item.name, number)


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_slot, "BATCH_BYTES", 100)
    monkeypatch.setattr(arrow_slot, "HEAD_BYTES", 200)


@pytest.mark.parametrize("batches", ["small", "as configured"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "I64"])
def test_one_file_round_trip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, batches: str
) -> None:
    if batches == "small":
        small_batches(monkeypatch)
    items = make_items(SHAPES, dtype)
    values = make_values(items)
    layout = arrow.layout(items, tmp_path / "model.arrow", 1)
    store(layout, values)
    (file,) = layout.files
    arrow.check(Path(file.path), file)
    with pa.ipc.open_file(file.path) as reader:
        table = reader.read_all()
        if batches == "small":
            assert reader.num_record_batches > 2 * len(items)
    assert table.schema.field("values").metadata == {b"dtype": dtype.encode()}
    assert_stored(table, items, values)


def test_the_file_is_also_a_stream(tmp_path: Path) -> None:
    items = make_items(SHAPES)
    layout = arrow.layout(items, tmp_path / "model.arrow", 1)
    store(layout, make_values(items))
    data = (tmp_path / "model.arrow").read_bytes()
    footer_bytes = int.from_bytes(data[-10:-6], "little")
    end = len(data) - 10 - footer_bytes
    assert data[end - 8 : end] == bytes.fromhex("ffffffff00000000")
    stream = pa.ipc.open_stream(data[8:end]).read_all()
    assert stream.equals(pa.ipc.open_file(data).read_all(), check_metadata=True)


@pytest.mark.parametrize("largest", [1, 3, 64, 1000, 10**9])
def test_windows_in_any_order_and_size_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    small_batches(monkeypatch)
    items = make_items(SHAPES)
    values = make_values(items)
    path = tmp_path / "model.arrow"
    store(arrow.layout(items, path, 1), values, 10**9)
    whole = path.read_bytes()
    store(arrow.layout(items, path, 1), values, largest, seed=largest)
    assert path.read_bytes() == whole


def test_the_table_equals_one_that_arrow_built(tmp_path: Path) -> None:
    items = make_items({"a": (4, 8), "b": (3,)})
    values = make_values(items)
    layout = arrow.layout(items, tmp_path / "model.arrow", 1, BITS)
    store(layout, values)
    table = pa.ipc.open_file(tmp_path / "model.arrow").read_all()
    kind = table.schema.field("values").type
    assert kind == pa.large_list(pa.field("item", pa.uint16(), nullable=False))
    matrix = values[0].reshape(4, 8).tolist()
    expected = pa.table(
        {
            "tensor": ["a"] * 4 + ["b"],
            "row": [0, 1, 2, 3, 0],
            "values": pa.array([*matrix, values[1].tolist()], kind),
        }
    )
    assert table.cast(expected.schema).equals(expected)


def test_windows_from_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_slot, "BATCH_BYTES", 4096)
    items = make_items({f"layer.{i}": (100, 96) for i in range(6)})
    values = make_values(items)
    layout = arrow.layout(items, tmp_path / "out", 60_000)
    assert len(layout.files) == 3
    fds = create(layout)
    windows = [(i, w) for i in range(6) for w in cut(9600, random.Random(i), 900)]
    random.Random(1).shuffle(windows)
    begin = threading.Barrier(4)

    def work(thread: int) -> None:
        begin.wait()
        for number, (start, stop) in windows[thread::4]:
            file, slot = layout.places[number]
            read_only = values[number][start:stop].copy()
            read_only.flags.writeable = False
            slot.write(fds[file], start, read_only)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for fd, file in zip(fds, layout.files, strict=True):
        os.close(fd)
        arrow.check(Path(file.path), file)
    table = pa.dataset.dataset(tmp_path / "out", format="arrow").to_table()
    assert_stored(table, items, values)


def test_values_may_come_as_bytes(tmp_path: Path) -> None:
    """Tensors that are copied come as uint8, whatever their dtype is."""
    items = make_items({"a": (4, 8)}, "F32")
    (values,) = make_values(items)
    layout = arrow.layout(items, tmp_path / "model.arrow", 1)
    (fd,) = create(layout)
    layout.places[0][1].write(fd, 20, values.view(np.uint8)[80:])
    layout.places[0][1].write(fd, 0, values.view(np.uint8)[:80])
    layout.places[0][1].write(fd, 32, values[:0])
    os.close(fd)
    assert_stored(pa.ipc.open_file(tmp_path / "model.arrow").read_all(), items, [values])


def test_ranges_are_where_the_values_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batches(monkeypatch)
    items = make_items(SHAPES)
    values = make_values(items)
    layout = arrow.layout(items, tmp_path / "model.arrow", 1)
    store(layout, values)
    data = (tmp_path / "model.arrow").read_bytes()
    chance = random.Random(0)
    for (_, slot), numbers in zip(layout.places, values, strict=True):
        for _ in range(8):
            start, stop = sorted(chance.choices(range(len(numbers) + 1), k=2))
            found = b"".join(data[at : at + n] for at, n in slot.ranges(start, stop))
            assert found == numbers[start:stop].tobytes()


def test_a_slot_is_small_to_pickle_whatever_the_tensor(tmp_path: Path) -> None:
    (item,) = make_items({"model.layers.0.mlp.experts.weight": (100_000, 300_000)})
    layout = arrow.layout([item], tmp_path / "model.arrow", 1)
    (_, slot) = layout.places[0]
    assert len(pickle.dumps(slot)) < 200
    assert pickle.loads(pickle.dumps(slot)) == slot


def test_folder_is_a_dataset_with_one_schema(tmp_path: Path) -> None:
    items = make_items({**SHAPES, **{f"layer.{i}": (20, 50) for i in range(10)}})
    values = make_values(items)
    folder = tmp_path / "out"
    layout = arrow.layout(items, folder, 6000)
    count = len(layout.files)
    assert count > 3
    assert layout.extras == ()
    store(layout, values)
    names = [f"part-{i + 1:05d}-of-{count:05d}.arrow" for i in range(count)]
    assert sorted(os.listdir(folder)) == names
    assert [Path(f.path).name for f in layout.files] == names
    assert sum(f.stat().st_size for f in folder.iterdir()) == layout.nbytes
    dataset = pa.dataset.dataset(folder, format="arrow")
    schemas = {pa.ipc.open_file(f).schema.serialize().to_pybytes() for f in folder.iterdir()}
    assert schemas == {dataset.schema.serialize().to_pybytes()}
    assert_stored(dataset.to_table(), items, values)


def test_the_schema_lists_every_tensor_and_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    items = make_items({**SHAPES, "again": (40, 40)})
    layout = arrow.layout(items, tmp_path / "out", 2000)
    store(layout, make_values(items))
    schema = pa.dataset.dataset(tmp_path / "out", format="arrow").schema
    entries = json.loads(schema.metadata[b"anamnesis.tensors"])
    assert [e["name"] for e in entries] == [i.name for i in items]
    readers = [pa.ipc.open_file(f.path) for f in layout.files]
    seen = [0] * len(readers)
    for entry, item in zip(entries, items, strict=True):
        assert (tuple(entry["shape"]), entry["dtype"]) == (item.shape, "BF16")
        assert entry["scheme"] == "gptq"
        first, count = entry["batches"]
        shard = entry["shard"] - 1
        assert first == seen[shard]
        seen[shard] += count
        batches = [readers[shard].get_batch(first + i) for i in range(count)]
        assert {name for b in batches for name in b["tensor"].to_pylist()} <= {item.name}
        assert sum(len(b) for b in batches) == int(np.prod(item.shape[:-1], dtype=int))
    assert seen == [r.num_record_batches for r in readers]


def test_polars_reads_a_file_and_a_folder(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    items = make_items({"w": (30, 8), "empty": (0, 4), "norm": (5,), **SHAPES})
    values = make_values(items)
    layout = arrow.layout(items, tmp_path / "out", 1000, BITS)
    store(layout, values)
    table = pa.dataset.dataset(tmp_path / "out", format="arrow").to_table()
    frame = pl.scan_ipc(tmp_path / "out" / "*.arrow").collect()
    assert frame.schema["values"] == pl.List(pl.UInt16)
    assert frame.rows() == [tuple(r.values()) for r in table.to_pylist()]
    assert pl.scan_ipc(tmp_path / "out").collect().equals(frame)
    one = pl.read_ipc(layout.files[0].path)
    assert one.equals(frame.head(len(one)))


def test_polars_reads_half_floats(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    items = make_items({"w": (3, 4)}, "F16")
    store(arrow.layout(items, tmp_path / "h.arrow", 1), [np.arange(12, dtype=np.float16)])
    assert pl.read_ipc(tmp_path / "h.arrow")["values"].to_list()[2] == [8.0, 9.0, 10.0, 11.0]


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_duckdb_reads_the_dataset(tmp_path: Path, dtype: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    items = make_items({"w": (30, 8), "norm": (5,), "empty": (0, 3)}, dtype)
    values = [np.arange(i.elems, dtype=NUMPY[dtype]) for i in items]
    store(arrow.layout(items, tmp_path / "out", 1000, BITS), values)
    dataset = pa.dataset.dataset(tmp_path / "out", format="arrow")
    connection = duckdb.connect()
    connection.register("weights", dataset)
    found = connection.execute(
        'select tensor, count(*), sum(list_sum("values")), max(row) from weights '
        "group by tensor order by tensor"
    ).fetchall()
    assert found == [("norm", 1, 10, 0), ("w", 30, 239 * 240 // 2, 29)]


def test_a_batch_never_holds_part_of_a_row_nor_too_much(tmp_path: Path) -> None:
    shapes = {"wide": (40, 1_000_003), "row": (3, 9_000_000), "narrow": (200_000, 2), "c": (9, 9)}
    layout = arrow.layout(make_items(shapes), tmp_path / "model.arrow", 1)
    for fd in create(layout):
        for _, slot in layout.places:
            slot.write(fd, 0, np.zeros(1, np.uint16))  # the head of the first batch
        os.close(fd)
    for (_, slot), shape in zip(layout.places, shapes.values(), strict=True):
        assert isinstance(slot, ArrowSlot)
        assert slot.batch_rows * slot.row_bytes <= max(arrow_slot.BATCH_BYTES, 2 * shape[1])
        assert len(slot.head(0)) <= arrow_slot.HEAD_BYTES + 1024
        assert slot.batches == -(-shape[0] // slot.batch_rows)
        assert all(offset % 64 == 0 for offset, _, _ in slot.blocks())
        assert all(offset % 64 == 0 for offset, _ in slot.ranges(0, 1))
    assert [s.batch_rows for _, s in layout.places if isinstance(s, ArrowSlot)][:2] == [8, 1]


@pytest.mark.parametrize("shape", [(2**31 + 5,), (3, 2**30 + 1), (2**20 + 3, 2**11)])
def test_more_than_two_to_the_31_elements(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (item, small) = make_items({"huge": shape, "after": (2, 2)})
    layout = arrow.layout([item, small], tmp_path / "model.arrow", 1, BITS)
    (fd,) = create(layout)  # sparse
    slot = layout.places[0][1]
    assert isinstance(slot, ArrowSlot)
    batch_elems = slot.batch_rows * shape[-1]
    for batch in range(slot.batches):
        slot.write(fd, batch * batch_elems, np.array([batch + 1], np.uint16))
    slot.write(fd, item.elems - 3, np.array([7, 8, 9], np.uint16))
    layout.places[1][1].write(fd, 0, np.arange(4, dtype=np.uint16))
    os.close(fd)
    arrow.check(Path(layout.files[0].path), layout.files[0])
    with pa.memory_map(layout.files[0].path) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == slot.batches + 1
        last = reader.get_batch(slot.batches - 1)
        last.validate()
        flat = last["values"].values
        assert flat[0].as_py() == slot.batches
        assert flat[-3:].to_pylist() == [7, 8, 9]
        assert last["row"][-1].as_py() == (shape[0] - 1 if len(shape) > 1 else 0)
        assert reader.get_batch(slot.batches)["values"].to_pylist() == [[0, 1], [2, 3]]
        del last, flat


def test_many_tensors(tmp_path: Path) -> None:
    items = make_items({f"model.layers.{i}.weight": (2, 3) for i in range(3000)})
    values = make_values(items)
    layout = arrow.layout(items, tmp_path / "model.arrow", 1, BITS)
    store(layout, values)
    arrow.check(tmp_path / "model.arrow", layout.files[0])
    table = pa.ipc.open_file(tmp_path / "model.arrow").read_all()
    table.validate(full=True)
    assert np.array_equal(pa.compute.list_flatten(table["values"]), np.concatenate(values))


def test_no_tensors_is_a_file_without_batches(tmp_path: Path) -> None:
    layout = arrow.layout([], tmp_path / "model.arrow", 1)
    store(layout, [])
    arrow.check(tmp_path / "model.arrow", layout.files[0])
    table = pa.ipc.open_file(tmp_path / "model.arrow").read_all()
    assert table.num_rows == 0
    assert table.schema.names == ["tensor", "row", "values"]


@pytest.mark.parametrize("batches", ["small", "as configured"])
def test_every_dtype_has_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: str
) -> None:
    if batches == "small":
        small_batches(monkeypatch)
    items = [
        *make_items(SHAPES, "F32"),
        *make_items({f"b.{name}": shape for name, shape in SHAPES.items()}),
        *make_items({f"i.{name}": shape for name, shape in SHAPES.items()}, "I64"),
        *make_items({"f": (3, 2)}, "F32"),
    ]
    values = make_values(items)
    path = tmp_path / "model.arrow"
    layout = arrow.layout(items, path, 1)
    store(layout, values)
    arrow.check(path, layout.files[0])
    table = pa.ipc.open_file(path).read_all()
    table.validate(full=True)
    dtypes = ("F32", "BF16", "I64")
    names = [f"values_{dtype.lower()}" for dtype in dtypes]
    assert table.schema.names == ["tensor", "row", *names]
    for dtype, name in zip(dtypes, names, strict=True):
        assert table.schema.field(name).metadata == {b"dtype": dtype.encode()}
        own = {item.name for item in items if item.dtype == dtype}
        there = table.filter(pa.compute.is_valid(table[name]))
        assert set(there["tensor"].to_pylist()) <= own
        there = there.select(["tensor", "row", name]).rename_columns(["tensor", "row", "values"])
        mine = [(i, v) for i, v in zip(items, values, strict=True) if i.dtype == dtype]
        assert_stored(there, [i for i, _ in mine], [v for _, v in mine])


def test_names_are_a_dictionary_of_their_file(tmp_path: Path) -> None:
    items = make_items({f"layer.{i}": (20, 50) for i in range(10)})
    layout = arrow.layout(items, tmp_path / "out", 6000)
    store(layout, make_values(items))
    for file in layout.files:
        reader = pa.ipc.open_file(file.path)
        assert reader.schema.field("tensor").type == pa.dictionary(pa.int32(), pa.utf8())
        names = reader.get_batch(0)["tensor"].dictionary.to_pylist()
        assert names == list(dict.fromkeys(reader.read_all()["tensor"].to_pylist()))
        assert 1 < len(names) < 10


def test_null_columns_after_the_values_are_checked(tmp_path: Path) -> None:
    items = [*make_items({"w": (30, 8)}), *make_items({"f": (3, 2)}, "F32")]
    path = tmp_path / "x.arrow"
    layout = arrow.layout(items, path, 1)
    store(layout, make_values(items))
    slot = layout.places[0][1]
    assert isinstance(slot, ArrowSlot)
    *_, (offset, data) = slot.heads()
    assert data == bytes(len(data))
    assert len(data) == 64 + 256
    flip(path, offset + 80)
    with pytest.raises(IntegrityError, match=r"x\.arrow"):
        arrow.check(path, layout.files[0])


@pytest.mark.parametrize("dtype", ["C64", "F4"])
def test_dtypes_without_an_arrow_type_are_refused(tmp_path: Path, dtype: str) -> None:
    item = Item("spectrum", (2, 2), dtype, 4)
    with pytest.raises(UnsupportedError, match=rf"spectrum: Arrow has no type for {dtype}"):
        arrow.layout([item], tmp_path / "x.arrow", 1)


@pytest.mark.parametrize("shape", [(2**63, 0), (2**62, 2**62, 0), (2**45, 1)])
def test_absurd_row_counts_are_refused_before_they_take_memory(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(LimitError, match="bad"):
        arrow.layout(make_items({"bad": shape}), tmp_path / "x.arrow", 1)


def test_absurd_dimensions_without_rows_are_kept(tmp_path: Path) -> None:
    items = make_items({"odd": (0, 2**62, 2**62)})
    layout = arrow.layout(items, tmp_path / "x.arrow", 1)
    store(layout, make_values(items))
    assert pa.ipc.open_file(tmp_path / "x.arrow").read_all().num_rows == 0


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_check_sees_every_byte_that_is_not_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    items = make_items({"w": (30, 8), "none": (2, 0)})
    path = tmp_path / "x.arrow"
    layout = arrow.layout(items, path, 1)
    store(layout, make_values(items))
    (file,) = layout.files
    known = [*file.fixed, *(head for s in file.slots for head in s.heads())]
    values = [r for s, i in zip(file.slots, items, strict=True) for r in s.ranges(0, i.elems)]
    covered = sum(n for _, n in values) + sum(len(d) for o, d in dict(known).items())
    batches = pa.ipc.open_file(path).num_record_batches
    assert file.nbytes - 64 * batches < covered <= file.nbytes  # the rest pads the values
    for offset, data in known:
        for at in {offset, offset + len(data) // 2, offset + len(data) - 1}:
            flip(path, at)
            with pytest.raises(IntegrityError, match=r"x\.arrow"):
                arrow.check(path, file)
            flip(path, at)
    arrow.check(path, file)
    with path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(IntegrityError, match="bytes were written"):
        arrow.check(path, file)


def test_check_sees_a_batch_whose_first_window_never_came(tmp_path: Path) -> None:
    items = make_items({"w": (30, 8)})
    layout = arrow.layout(items, tmp_path / "x.arrow", 1)
    (fd,) = create(layout)
    layout.places[0][1].write(fd, 8, np.zeros(232, np.uint16))
    os.close(fd)
    with pytest.raises(IntegrityError):
        arrow.check(tmp_path / "x.arrow", layout.files[0])


def test_check_asks_arrow_too(tmp_path: Path) -> None:
    """A layout that is consistent with itself, but not what Arrow reads, is refused."""
    items = make_items({"w": (4, 8)})
    path = tmp_path / "x.arrow"
    layout = arrow.layout(items, path, 1)
    store(layout, make_values(items))
    (file,) = layout.files
    offset, end = file.fixed[-1]
    broken = end[:-1] + b"2"
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(broken)
    with pytest.raises(IntegrityError, match="Arrow"):
        arrow.check(path, replace(file, fixed=(*file.fixed[:-1], (offset, broken))))


def test_the_table_names_this_writer() -> None:
    assert writer("arrow") is arrow
    assert WRITERS["arrow"].suffix == arrow.SUFFIX
