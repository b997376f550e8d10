"""The safetensors sink, read back by the safetensors library itself."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.errors import FormatError, IntegrityError, LimitError
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers import WRITERS, safetensors, writer
from anamnesis.writers.base import Item, Layout

deserialize = pytest.importorskip("safetensors").deserialize

SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "norm": (17,),
    "matrix": (37, 13),
    "experts": (2, 3, 4),
    "empty": (0,),
    "none": (3, 0),
    "слой.重み.é🦙": (3, 2),
    'quote"\\\n': (2, 2),
    "": (1,),
}


def make_items(shapes: dict[str, tuple[int, ...]], dtypes: Sequence[str] = ("BF16",)) -> list[Item]:
    items = []
    for number, (name, shape) in enumerate(shapes.items()):
        elems = int(np.prod(shape, dtype=object))
        items.append(Item(name, shape, dtypes[number % len(dtypes)], elems))
    return items


def make_bytes(items: Sequence[Item], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, i.elems * DTYPES[i.dtype].bits // 8, np.uint8) for i in items]


def store(layout: Layout, items: Sequence[Item], data: Sequence[Any], step: int, seed: int) -> None:
    """Write all values in windows of up to `step` elements, in random order."""
    chance = random.Random(seed)
    fds = []
    for file in layout.files:
        Path(file.path).parent.mkdir(exist_ok=True)
        fds.append(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
        os.ftruncate(fds[-1], file.nbytes)
        for offset, known in file.fixed:
            os.pwrite(fds[-1], known, offset)
    work = [(i, start) for i, item in enumerate(items) for start in range(0, item.elems, step)]
    chance.shuffle(work)
    for i, start in work:
        file_number, slot = layout.places[i]
        bits = DTYPES[items[i].dtype].bits
        stop = min(start + step, items[i].elems)
        slot.write(fds[file_number], start, data[i][start * bits // 8 : stop * bits // 8])
    for fd in fds:
        os.close(fd)
    for name, known in layout.extras:
        Path(name).write_bytes(known)


def read(path: str | Path) -> dict[str, dict[str, Any]]:
    return dict(deserialize(Path(path).read_bytes()))


@pytest.mark.parametrize("step", [2, 50, 10**6])
def test_one_file_round_trip_of_all_dtypes(tmp_path: Path, step: int) -> None:
    dtypes = ["BF16", "F32", "U8", "I64", "BOOL", "F16", "F64", "F8_E4M3", "C64"]
    items = make_items(SHAPES, dtypes)
    data = make_bytes(items)
    path = tmp_path / "model.safetensors"
    layout = safetensors.layout(items, path, 1)
    store(layout, items, data, step, seed=step)
    assert layout.extras == ()
    safetensors.check(path, layout.files[0])
    found = read(path)
    assert set(found) == set(SHAPES)
    for item, values in zip(items, data, strict=True):
        entry = found[item.name]
        assert (entry["dtype"], tuple(entry["shape"])) == (item.dtype, item.shape)
        assert bytes(entry["data"]) == values.tobytes()


def test_packed_dtypes_go_to_their_bits(tmp_path: Path) -> None:
    """Elements narrower than a byte: an element size in bytes would be zero."""
    items = make_items({"w": (8, 6), "v": (4,)}, ["F4"])
    data = make_bytes(items)
    path = tmp_path / "model.safetensors"
    layout = safetensors.layout(items, path, 1)
    store(layout, items, data, 4, seed=0)
    raw = path.read_bytes()
    for (_, slot), item, values in zip(layout.places, items, data, strict=True):
        found = b"".join(raw[at : at + n] for at, n in slot.ranges(2, item.elems))
        assert found == values[1:].tobytes()
        assert bytes(read(path)[item.name]["data"]) == values.tobytes()


def test_every_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    items = make_items({f"t{i}": (3,) for i in range(12)}, ["U8", "BF16", "F32", "I64"])
    layout = safetensors.layout(items, tmp_path / "model.safetensors", 1)
    assert len(layout.files[0].fixed[0][1]) % 64 == 0
    for item, (_, slot) in zip(items, layout.places, strict=True):
        ((offset, nbytes),) = slot.ranges(0, 3)
        assert offset % (DTYPES[item.dtype].bits // 8) == 0
        assert nbytes == 3 * DTYPES[item.dtype].bits // 8


def test_metadata_says_pt(tmp_path: Path) -> None:
    from safetensors import safe_open

    items = make_items({"a": (2,)})
    store(safetensors.layout(items, tmp_path / "x.safetensors", 1), items, make_bytes(items), 9, 0)
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_and_their_index(tmp_path: Path) -> None:
    items = make_items({f"layer.{i}": (10, 10) for i in range(7)} | {"norm": (5,)})
    data = make_bytes(items)
    layout = safetensors.layout(items, tmp_path / "out", 450)
    names = [f"model-{i + 1:05d}-of-00004.safetensors" for i in range(4)]
    assert [Path(f.path).name for f in layout.files] == names
    store(layout, items, data, 30, seed=0)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(len(d) for d in data)}
    assert set(index["weight_map"]) == {i.name for i in items}
    for item, values, (number, _) in zip(items, data, layout.places, strict=True):
        assert index["weight_map"][item.name] == names[number]
        assert bytes(read(layout.files[number].path)[item.name]["data"]) == values.tobytes()
    assert layout.nbytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    assert sorted(layout.order) == list(range(8))


def test_a_tensor_is_never_split_over_shards(tmp_path: Path) -> None:
    items = make_items({"a": (2,), "big": (1000,), "b": (2,)})
    layout = safetensors.layout(items, tmp_path / "out", 100)
    assert [number for number, _ in layout.places] == [0, 1, 2]
    items = make_items({"empty": (0,), "big": (1000,)})
    assert len(safetensors.layout(items, tmp_path / "out", 100).files) == 1


def test_a_folder_of_one_file_needs_no_index(tmp_path: Path) -> None:
    layout = safetensors.layout(make_items({"a": (2,)}), tmp_path / "out", 100)
    assert [f.path for f in layout.files] == [str(tmp_path / "out/model.safetensors")]
    assert layout.extras == ()


def test_no_tensors(tmp_path: Path) -> None:
    layout = safetensors.layout([], tmp_path / "x.safetensors", 100)
    store(layout, [], [], 1, 0)
    assert read(tmp_path / "x.safetensors") == {}


def test_w10_a_tensor_named_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="__metadata__"):
        safetensors.layout(make_items({"__metadata__": (2,)}), tmp_path / "x.safetensors", 1)


def test_a_header_that_readers_refuse_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_items({f"layer.{i}": (1,) for i in range(20)})
    header = safetensors.layout(items, tmp_path / "x.safetensors", 1).files[0].fixed[0][1]
    (size,) = struct.unpack("<Q", header[:8])
    monkeypatch.setattr(safetensors, "SAFETENSORS_HEADER_BYTES", size)
    safetensors.layout(items, tmp_path / "x.safetensors", 1)
    monkeypatch.setattr(safetensors, "SAFETENSORS_HEADER_BYTES", size - 1)
    with pytest.raises(LimitError, match="max_shard_size"):
        safetensors.layout(items, tmp_path / "x.safetensors", 1)


def test_more_than_two_to_the_31_elements_in_a_sparse_file(tmp_path: Path) -> None:
    items = make_items({"huge": (2**31 + 5, 2), "after": (3,)})
    layout = safetensors.layout(items, tmp_path / "x.safetensors", 1)
    (file,) = layout.files
    assert file.nbytes == len(file.fixed[0][1]) + 2 * (2**32 + 10) + 6
    fd = os.open(file.path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, file.nbytes)
    os.pwrite(fd, file.fixed[0][1], 0)
    layout.places[0][1].write(fd, 2**32 + 7, np.array([7, 8, 9], np.uint16))
    layout.places[1][1].write(fd, 0, np.array([1, 2, 3], np.uint16))
    tail = os.pread(fd, 12, file.nbytes - 12)
    os.close(fd)
    assert np.frombuffer(tail, np.uint16).tolist() == [7, 8, 9, 1, 2, 3]
    safetensors.check(Path(file.path), file)


def test_slots_are_small_to_pickle(tmp_path: Path) -> None:
    layout = safetensors.layout(make_items({"a": (2,)}), tmp_path / "x.safetensors", 1)
    (_, slot) = layout.places[0]
    assert len(pickle.dumps(slot)) < 200
    assert pickle.loads(pickle.dumps(slot)) == slot


def test_check_sees_a_header_or_a_size_that_differs(tmp_path: Path) -> None:
    items = make_items({"a": (20,)})
    path = tmp_path / "x.safetensors"
    layout = safetensors.layout(items, path, 1)
    store(layout, items, make_bytes(items), 9, 0)
    (file,) = layout.files
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + b"#" + whole[21:])
    with pytest.raises(IntegrityError, match="header"):
        safetensors.check(path, file)
    path.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError, match="were written"):
        safetensors.check(path, file)


def test_the_table_names_this_writer() -> None:
    assert writer("safetensors") is safetensors
    assert WRITERS["safetensors"].suffix == safetensors.SUFFIX
