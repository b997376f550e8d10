"""Parquet files: what engines read in them, in bounded memory, whole or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arrow_files import write_in_any_order
from pyarrow import parquet as pq

import anamnesis
from anamnesis.analytics.scan.rows import LONGEST as SCAN_LONGEST
from anamnesis.errors import IntegrityError, LimitError, UnsupportedError, UsageError
from anamnesis.pipeline.executors import EXECUTORS
from anamnesis.pipeline.written import open_written
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers import parquet, parquet_pack
from anamnesis.writers.base import Item, OutFile, Storage
from anamnesis.writers.part import PartFile

SHAPES = ((300, 40), (3, 5, 7, 11), (30_000,), (), (0, 4), (6, 0), (5000, 1))
STORED = [name for name, kind in DTYPES.items() if kind.numpy and kind.kind != "complex"]
COLUMNS = {"BF16": "values", "F16": "values", "F32": "values", "F64": "values_f64"}


def contents(dtypes: list[str]) -> tuple[list[Item], list[Any]]:
    rng = np.random.default_rng(0)
    items, values = [], []
    for dtype in dtypes:
        for number, shape in enumerate(SHAPES):
            elems = int(np.prod(shape, dtype=int))
            items.append(Item(f"{dtype}.{number}", shape, dtype, elems, "passthrough"))
            values.append(rng.integers(0, 256, elems * DTYPES[dtype].bits // 8, np.uint8))
    return items, values


def write(
    path: Path, items: list[Item], values: list[Any], storage: Storage, windows: int = 1
) -> OutFile:
    """Written in windows that come in any order, as a run does."""
    layout = parquet.layout(items, path, 1 << 40, storage)
    part = PartFile(layout.files[0], overwrite=True)
    write_in_any_order(part, layout, items, values, windows)
    part.commit(parquet)
    return layout.files[0]


def bits(column: Any, dtype: str) -> bytes:
    """What a column of lists holds, as its own bytes."""
    flat = column.combine_chunks().flatten()
    width = flat.type.bit_width // 8
    return bytes(flat.buffers()[-1])[flat.offset * width : (flat.offset + len(flat)) * width]


@pytest.mark.parametrize("group_bytes", [1000, 8 << 20])
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_every_dtype_and_shape(
    codec: str, group_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", group_bytes)
    monkeypatch.setattr(parquet, "LONGEST", 7000)
    items, values = contents(STORED)
    path = tmp_path / "w.parquet"
    storage = Storage(codec, "uint16")
    out = write(path, items, values, storage, windows=5)
    table = pq.read_table(path)
    table.validate(full=True)
    for item, data in zip(items, values, strict=True):
        rows = table.filter(pa.compute.equal(table["tensor"].cast(pa.string()), item.name))
        kind = np.dtype(DTYPES[item.dtype].numpy)
        column = COLUMNS.get(item.dtype, f"values_{kind.kind}{8 * kind.itemsize}")
        column = "values_bf16" if item.dtype == "BF16" else column
        if not item.elems:
            assert rows.num_rows == 0
            continue
        if item.dtype == "F16":
            wide = data.view(np.float16).astype(np.float32)
            found = np.frombuffer(bits(rows[column], item.dtype), np.float32)
            assert np.array_equal(found, wide, equal_nan=True)
        else:
            assert bits(rows[column], item.dtype) == data.tobytes()
        columns = item.shape[-1] if item.shape else 1
        lengths = rows[column].combine_chunks().value_lengths().to_numpy()
        place = rows["row"].to_numpy() * columns + rows["col"].to_numpy()
        assert place.tolist() == [0, *np.cumsum(lengths)[:-1]]
        assert max(lengths) <= 7000
        assert set(rows["dtype"].to_pylist()) == {item.dtype}
        others = [n for n in table.schema.names if n.startswith("values") and n != column]
        assert all(rows[name].null_count == rows.num_rows for name in others)
    written = open_written(out)
    for item, slot, data in zip(items, out.slots, values, strict=True):
        size = DTYPES[item.dtype].bits // 8
        for start, stop in ((0, item.elems), (item.elems // 3, item.elems // 2)):
            got = b"".join(written.values(item.name, slot, start, stop))
            assert got == data[start * size : stop * size].tobytes()
    written.close()


def test_sixteen_bits_keep_their_nan(tmp_path: Path) -> None:
    """Every pattern of 16 bits there and back; float32 has the sign and the payload of each NaN."""
    every = np.arange(1 << 16, dtype=np.uint16)
    items = [Item("b", (256, 256), "BF16", 1 << 16), Item("h", (256, 256), "F16", 1 << 16)]
    path = tmp_path / "w.parquet"
    out = write(path, items, [every.view(np.uint8)] * 2, Storage("zstd", "float32"))
    table = pq.read_table(path)
    found = np.frombuffer(bits(table["values"], ""), np.uint32).reshape(2, -1)
    assert np.array_equal(found[0], every.astype(np.uint32) << 16)
    nan = (every & 0x7FFF) > 0x7C00
    wide = every[~nan].view(np.float16).astype(np.float32)
    assert np.array_equal(found[1][~nan], wide.view(np.uint32))
    assert np.array_equal(found[1][nan] >> 31, every[nan] >> 15)
    assert np.array_equal(found[1][nan] & 0x7FFFFF, (every[nan] & 0x3FF).astype(np.uint32) << 13)
    assert np.isnan(found[1][nan].view(np.float32)).all()
    written = open_written(out)
    for name, slot in zip("bh", out.slots, strict=True):
        assert b"".join(written.values(name, slot, 0, 1 << 16)) == every.tobytes()
    written.close()


def test_row_groups_are_of_one_tensor_and_bounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    long = parquet.LONGEST * 9 + 5
    shapes = {"wide": (4, long), "norm": (64,), "tall": (70_000, 3), "two": (3000, 2000)}
    items = [Item(n, s, "F32", int(np.prod(s))) for n, s in shapes.items()]
    values = [rng.integers(0, 256, 4 * i.elems, np.uint8) for i in items]
    path = tmp_path / "w.parquet"
    write(path, items, values, Storage("zstd", "float32"))
    with pq.ParquetFile(path) as file:
        meta = file.metadata
        seen = []
        for group in range(meta.num_row_groups):
            row = meta.row_group(group)
            names = row.column(0).statistics
            assert names.min == names.max
            seen.append(names.min)
            assert row.column(5).total_uncompressed_size < parquet.GROUP_BYTES * 1.02
        assert sorted(set(seen), key=seen.index) == list(shapes)
        assert seen == sorted(seen, key=list(shapes).index)
        assert seen.count("wide") == 5
        assert seen.count("norm") == 1
        listed = json.loads(meta.metadata[b"anamnesis.tensors"])
    assert [(t["name"], tuple(t["shape"])) for t in listed] == list(shapes.items())
    assert [t["batches"][1] for t in listed] == [seen.count(t["name"]) for t in listed]
    found = pq.read_table(path, filters=[("tensor", "==", "wide")])
    assert max(found["col"].to_pylist()) == 9 * parquet.LONGEST
    assert parquet.LONGEST == SCAN_LONGEST


@pytest.fixture(scope="module")
def weights(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A folder of parts, and what numpy has of the model."""
    out = tmp_path_factory.mktemp("parquet") / "weights"
    anamnesis.convert(sample, out, to="parquet", max_shard_size="3MB")
    assert len(list(out.glob("*.parquet"))) == 4
    values = {n: t.to_numpy().astype(np.float32) for n, t in anamnesis.open_model(sample).items()}
    return str(out), values


def test_duckdb_reads_it(weights: tuple[str, dict[str, Any]]) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder, values = weights
    found = duckdb.sql(f"""
        SELECT tensor, any_value(dtype), count(*), sum(len("values")), max(list_max("values"))
        FROM '{folder}/*.parquet' GROUP BY tensor
    """).fetchall()
    assert {name: rest for name, *rest in found} == {
        name: [
            "F32" if v.ndim == 1 else "BF16",
            1 if v.ndim == 1 else len(v),
            v.size,
            v.max(),
        ]
        for name, v in values.items()
    }
    (row,) = duckdb.sql(f"""
        SELECT "values" FROM '{folder}/*.parquet' WHERE tensor = 'blk.0.attn_k.weight' AND row = 7
    """).fetchall()
    assert np.array_equal(np.array(row[0], np.float32), values["blk.0.attn_k.weight"][7])


def test_pandas_reads_it(weights: tuple[str, dict[str, Any]]) -> None:
    pd = pytest.importorskip("pandas")
    folder, values = weights
    frame = pd.read_parquet(folder)
    for name, rows in frame.groupby("tensor", observed=True):
        found = np.stack(rows.sort_values("row")["values"].to_list())
        assert np.array_equal(found.reshape(values[name].shape), values[name])
    one = pd.read_parquet(folder, filters=[("tensor", "==", "output_norm.weight")])
    assert len(one) == 1


def test_polars_reads_it(weights: tuple[str, dict[str, Any]]) -> None:
    pl = pytest.importorskip("polars")
    folder, values = weights
    found = (
        pl.scan_parquet(f"{folder}/*.parquet")
        .group_by(pl.col("tensor").cast(pl.String))
        .agg(pl.col("values").list.min().min())
        .collect()
    )
    assert dict(found.iter_rows()) == {name: v.min() for name, v in values.items()}


def test_pyarrow_reads_it(weights: tuple[str, dict[str, Any]]) -> None:
    import pyarrow.dataset as ds

    folder, values = weights
    table = ds.dataset(folder).to_table(filter=ds.field("tensor") == "blk.0.ffn_up.weight")
    found = table["values"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(found, values["blk.0.ffn_up.weight"].ravel())


@pytest.mark.parametrize(("bf16", "kind"), [("uint16", "uint16"), ("extension", "binary[2]")])
def test_bf16_as_bits(bf16: Any, kind: str, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.parquet"
    anamnesis.remember(sample, out, bf16=bf16)
    assert kind in str(pq.read_schema(out).field("values_bf16").type)
    assert anamnesis.verify(out, against=sample)["pieces_decoded"] == 11


def test_every_executor_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    written = set()
    for name in EXECUTORS:
        out = tmp_path / f"{name}.parquet"
        settings: dict[str, Any] = {"executor": name, "threads": 1 if name == "serial" else 2}
        anamnesis.remember(sample, out, **settings)
        written.add(out.read_bytes())
        assert anamnesis.verify(out, against=sample)["pieces_decoded"] == 11
    assert len(written) == 1


def test_damage_is_found_and_mended(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    how: dict[str, Any] = {"to": "parquet", "max_shard_size": "3MB"}
    anamnesis.remember(sample, out, **how)
    path = out / "part-00002-of-00004.parquet"
    whole = path.read_bytes()
    listed = whole.index(b"anamnesis.tensors") + 60
    for at in (len(whole) // 2, len(whole) // 3, listed, 3, len(whole) - 3, len(whole) - 6):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 64,)) + whole[at + 1 :])
        with pytest.raises(IntegrityError, match="part-00002"):
            anamnesis.verify(out)
    assert anamnesis.remember(sample, out, **how).resumed == 3
    assert path.read_bytes() == whole
    assert anamnesis.verify(out)["tensors"] == 11


def test_a_run_that_was_killed_while_packing_goes_on(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys, os, signal\n"
        "from anamnesis.writers import parquet_pack as p\n"
        "pack, n = p.pack, []\n"
        "def dies(*arguments):\n"
        "    pack(*arguments)\n"
        "    n.append(1)\n"
        "    if len(n) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.pack = dies\n"
        "from anamnesis.cli.main import main\n"
        "main(['convert', sys.argv[1], '--to', 'parquet', '-o', sys.argv[2],\n"
        "      '--max-shard-size', '3MB', '--threads', '1'])"
    )
    command = [sys.executable, "-c", script, str(sample), str(out)]
    done = subprocess.run(command, capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(out.glob("part-*.parquet"))) == 1
    outcome = anamnesis.convert(sample, out, to="parquet", max_shard_size="3MB")
    assert outcome.resumed == 1
    assert not [n for n in os.listdir(out) if n.endswith(".part")]
    assert anamnesis.verify(out, against=sample)["pieces_decoded"] == 11


@pytest.mark.parametrize("name", ["fsync", "preadv"])
def test_an_error_while_packing_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parquet_pack.pack

    def broken(*arguments: Any) -> None:
        def fail(*arguments: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, name, fail)
        real(*arguments)

    monkeypatch.setattr(parquet_pack, "pack", broken)
    items, values = contents(["F32"])
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "w.parquet", items, values, Storage("zstd", "float32"))
    assert os.listdir(tmp_path) == []


def test_memory_does_not_grow_with_a_row(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    elems = 96 << 20
    items = [Item("long", (elems,), "BF16", elems)]
    write(tmp_path / "warm.parquet", *contents(["BF16"]), Storage("zstd", "float32"))
    layout = parquet.layout(items, tmp_path / "x.parquet", 1, Storage("zstd", "float32"))
    part = PartFile(layout.files[0])
    Path("/proc/self/clear_refs").write_text("5")
    before = int(status.read_text().split("VmHWM:")[1].split()[0])
    part.commit(parquet)
    after = int(status.read_text().split("VmHWM:")[1].split()[0])
    assert after - before < 64 << 10
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 48


def test_packing_is_in_the_budget(sample: Path, tmp_path: Path) -> None:
    """With 128 MiB more than a run that packs nothing, in one process that does nothing else."""
    out = tmp_path / "w.parquet"
    with pytest.raises(LimitError, match=r"run\.memory \(--memory\) is 268,435,456: set it to"):
        anamnesis.remember(sample, out, memory="256MiB")
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    script = (
        "import sys, anamnesis\n"
        "anamnesis.remember(sys.argv[1], sys.argv[2], memory='384MiB', threads=1)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    model = tmp_path / "m.npz"
    np.savez(model, **{f"w{i}": np.zeros((3000, 4000), np.float32) + i for i in range(4)})
    command = [sys.executable, "-c", script, str(model), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 384 << 10


def test_what_cannot_be(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "w.parquet"
    with pytest.raises(UnsupportedError, match="Arrow has no type for C64"):
        parquet.layout([Item("c", (2,), "C64", 2)], out, 1, Storage("zstd", "float32"))
    monkeypatch.setattr(parquet, "MOST_GROUPS", 3)
    with pytest.raises(LimitError, match="11 row groups; the fixed limit is 3"):
        anamnesis.remember(sample, out)
    with pytest.raises(UsageError, match=r"output\.bf16: float32 is for output\.format parquet"):
        anamnesis.remember(sample, tmp_path / "w.arrow", bf16="float32")
    with pytest.raises(UsageError, match=r"output\.compression: zstd is for arrow and parquet"):
        anamnesis.remember(sample, tmp_path / "w.safetensors", compression="zstd")
    assert os.listdir(tmp_path) == []
    (tmp_path / "in.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(UnsupportedError, match="Parquet"):
        anamnesis.inspect(tmp_path / "in.parquet")
