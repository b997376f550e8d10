"""Checkpoints of PyTorch before 1.6: five pickles, then the storages."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pth_bytes
import pytest
from pth_opened import opened, values

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.limits import MiB
from anamnesis.readers import pth_legacy
from anamnesis.readers.source import LocalFile

B = pth_bytes
FLOATS = np.arange(12, dtype="<f4")


@pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.ckpt", "pytorch_model.bin", "m.pth.tar", "m"])
def test_a_tensor(name: str, tmp_path: Path) -> None:
    container = opened(tmp_path, B.good_legacy(), name)
    assert container.kind == "pth"
    assert container.metadata == {"serialization": "legacy"}
    (stored,) = container.stored.values()
    assert (stored.name, stored.dtype, stored.shape, stored.view) == ("w", "F32", (4,), None)
    assert values(container, "w") == B.DATA
    assert container.members == ()


def test_storages_lie_in_the_order_of_the_keys(tmp_path: Path) -> None:
    top = B.dict_({k: B.tensor(B.storage(k, 3, view=None), (3,)) for k in ("7", "41", "5")})
    parts = {k: np.full(3, int(k), "<f4").tobytes() for k in ("41", "5", "7")}
    container = opened(tmp_path, B.legacy(top, [(k, 3, data) for k, data in parts.items()]))
    assert list(container.stored) == ["7", "41", "5"]
    assert all(values(container, k) == data for k, data in parts.items())


def test_strided_views(tmp_path: Path) -> None:
    store = B.storage("0", 12, view=None)
    top = B.dict_(
        {
            "plain": B.tensor(store, (3, 4), (4, 1)),
            "transposed": B.tensor(store, (4, 3), (1, 4)),
            "part": B.tensor(store, (2, 2), (4, 1), 5),
        }
    )
    container = opened(tmp_path, B.legacy(top, [("0", 12, FLOATS.tobytes())]))
    matrix = FLOATS.reshape(3, 4)
    assert values(container, "plain") == matrix.tobytes()
    assert values(container, "transposed") == matrix.T.tobytes()
    assert values(container, "part") == matrix[1:, 1:3].tobytes()


def test_storages_that_are_parts_of_another(tmp_path: Path) -> None:
    """PyTorch up to 0.4 wrote slices of storages as (key, offset, elements)."""
    whole, half = B.storage("r", 12, view=None), B.storage("r", 12, view=("v", 6, 6))
    top = B.dict_({"w": B.tensor(whole, (12,)), "v": B.tensor(half, (2,), (3,), 1)})
    container = opened(tmp_path, B.legacy(top, [("r", 12, FLOATS.tobytes())]))
    assert values(container, "v") == FLOATS[[7, 10]].tobytes()
    assert values(container, "w") == FLOATS.tobytes()


def test_ids_without_a_view_are_read_too(tmp_path: Path) -> None:
    top = B.dict_({"w": B.tensor(B.storage("0", 4))})
    assert values(opened(tmp_path, B.legacy(top, [("0", 4, B.DATA)])), "w") == B.DATA


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_other_protocols(protocol: int, tmp_path: Path) -> None:
    """The file's first bytes differ then, and its name has to say what it is."""
    content = B.legacy(
        B.one_tensor(legacy_form=True),
        [("0", 4, B.DATA)],
        magic=pickle.dumps(B.MAGIC_NUMBER, protocol=protocol),
        version=pickle.dumps(1001, protocol=protocol),
        system=pickle.dumps(B.SYSTEM, protocol=protocol),
        keys=pickle.dumps(["0"], protocol=protocol),
    )
    assert values(opened(tmp_path, content), "w") == B.DATA


def test_a_pickle_longer_than_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pth_legacy, "_FIRST_BYTES", 16)
    container = opened(tmp_path, B.good_legacy())
    assert values(container, "w") == B.DATA
    monkeypatch.setattr(pth_legacy, "_FIRST_BYTES", MiB)
    entries = {"notes": B.value("x" * 3 * MiB), "w": B.tensor(B.storage(view=None))}
    container = opened(tmp_path, B.legacy(B.dict_(entries), [("0", 4, B.DATA)]))
    assert values(container, "w") == B.DATA


def test_only_the_head_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file, the window and eight bytes a storage."""
    read: list[int] = []
    read_into = LocalFile.read_into

    def counting(file: LocalFile, offset: int, buffer: Any) -> None:
        read.append(len(memoryview(buffer).cast("B")))
        read_into(file, offset, buffer)

    monkeypatch.setattr(LocalFile, "read_into", counting)
    elems = 4 * MiB
    top = B.dict_({k: B.tensor(B.storage(k, elems, view=None), (elems,)) for k in ("0", "1")})
    data = bytes(4 * elems)
    opened(tmp_path, B.legacy(top, [("0", elems, data), ("1", elems, data)]))
    assert sum(read) < MiB + 2000


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (pickle.dumps({"a": 1}), UnsupportedError, "no checkpoint that torch.save wrote"),
        (pickle.dumps([1, 2]), UnsupportedError, "no checkpoint that torch.save wrote"),
        (pickle.dumps("text", protocol=0), UnsupportedError, "no checkpoint that torch.save"),
        (pickle.dumps(5), FormatError, "magic number: 0x5"),
        (b"hello world", FormatError, "neither a ZIP archive nor a legacy checkpoint"),
        (b"\x1f\x8b\x08" + b"\0" * 20, UnsupportedError, "gzip"),
        (b"<html>", FormatError, "HTML"),
    ],
)
def test_other_content(
    content: bytes, error: type[AnamnesisError], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        opened(tmp_path, content)
    assert type(caught.value) is error
    assert text in str(caught.value)
