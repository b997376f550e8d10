"""The writer of Arrow: windows to the bytes of a file."""

from __future__ import annotations

import os
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.ipc
import pytest
from arrow_files import (
    BITS,
    SHAPES,
    assert_stored,
    create,
    cut,
    make_items,
    make_values,
    small_batches,
    store,
)

from anamnesis.writers import WRITERS, arrow, arrow_slot, writer
from anamnesis.writers.arrow_slot import ArrowSlot


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


def test_the_table_names_this_writer() -> None:
    assert writer("arrow") is arrow
    assert WRITERS["arrow"].suffix == arrow.SUFFIX
