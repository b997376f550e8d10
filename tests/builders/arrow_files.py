"""Values and files of the writer of Arrow, for its tests."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.ipc
import pytest

from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers import arrow_slot
from anamnesis.writers.base import Item, Layout, Storage
from anamnesis.writers.part import PartFile

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


def write_in_any_order(
    part: PartFile, layout: Layout, items: Sequence[Item], values: Sequence[Any], windows: int
) -> None:
    """The bytes of tensors through their slots, in windows that come as they come in a run."""
    work = []
    for item, (_, slot), data in zip(items, layout.places, values, strict=True):
        size = DTYPES[item.dtype].bits // 8
        cuts = sorted({0, item.elems, *random.Random(0).choices(range(item.elems + 1), k=windows)})
        work += [(slot, a, data[a * size : b * size]) for a, b in pairwise(cuts)]
    random.Random(windows).shuffle(work)
    with part.part.open("r+b") as file:
        for slot, start, data in work:
            slot.write(file.fileno(), start, data)
