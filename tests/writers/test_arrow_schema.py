"""What tables in Arrow say of their tensors, and what other libraries read of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.ipc
import pytest
from arrow_files import (
    BITS,
    NUMPY,
    SHAPES,
    assert_stored,
    make_items,
    make_values,
    small_batches,
    store,
)

from anamnesis.errors import LimitError, UnsupportedError
from anamnesis.writers import arrow
from anamnesis.writers.base import Item


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
