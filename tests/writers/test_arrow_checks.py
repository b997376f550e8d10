"""What the check of a file in Arrow finds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.ipc
import pytest
from arrow_files import create, make_items, make_values, small_batches, store

from anamnesis.errors import IntegrityError
from anamnesis.writers import arrow
from anamnesis.writers.arrow_slot import ArrowSlot


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
