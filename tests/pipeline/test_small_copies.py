"""Small dense tensors that are read together: each arrives as if it had gone through the loop."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pth_bytes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import anamnesis
from anamnesis.pipeline import small_copies
from anamnesis.pipeline.small_copies import RUN_BYTES, SMALL_BYTES
from anamnesis.pipeline.work import TASK_PIECES

B = pth_bytes
KINDS = ["<f4", "<f2", "|i1", "<i8"]
# Few of them are as long as a run, or as what is read at once.
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([1023, 1024, 1025, 4096, 4097, 20_000]))
TENSORS = st.lists(st.tuples(st.sampled_from(KINDS), SIZES), min_size=1, max_size=30)


def arrays(tensors: list[tuple[str, int]]) -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    return {
        f"layers.{n}.weight": numbers.integers(1, 100, size).astype(kind)
        for n, (kind, size) in enumerate(tensors)
    }


def safetensors_of(found: dict[str, Any]) -> bytes:
    return save(found)


def gguf_of(found: dict[str, Any]) -> bytes:
    """All but the empty ones, each at a multiple of 32 bytes."""
    types = {"<f4": 0, "<f2": 1, "|i1": 24, "<i8": 27}
    infos, data = [], b""
    for name, array in found.items():
        if len(array):
            info = struct.pack("<Q", len(name)) + name.encode()
            kind = types[array.dtype.str]
            infos.append(info + struct.pack("<IQIQ", 1, len(array), kind, len(data)))
            data += array.tobytes()
            data += bytes(-len(data) % 32)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), 0) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


def pth_of(found: dict[str, Any]) -> bytes:
    """All of a kind are views of one storage, in an order of their own."""
    classes = {"<f4": "FloatStorage", "<f2": "HalfStorage", "|i1": "CharStorage"}
    classes["<i8"] = "LongStorage"
    data, entries = {}, {}
    for key, (kind, cls) in enumerate(classes.items()):
        some = {name: array for name, array in found.items() if array.dtype.str == kind}
        data[str(key)] = b"".join(array.tobytes() for array in some.values())
        at, elems = 0, sum(map(len, some.values()))
        for name, array in some.items():
            storage = B.storage(key=str(key), elems=elems, cls=cls)
            entries[name] = B.tensor(storage, (len(array),), (1,), at)
            at += len(array)
    return B.pth(B.pickled(B.dict_(entries)), data)


FORMATS = {"gguf": gguf_of, "pth": pth_of, "safetensors": safetensors_of}


def converted(source: Path, out: Path, to: str) -> tuple[bytes, Any]:
    """The output, and what its manifest says of the pieces."""
    anamnesis.convert(source, out, to=to, executor="serial", overwrite=True)
    manifest = out.with_name(out.name + ".anamnesis.json")
    return out.read_bytes(), json.loads(manifest.read_bytes())["pieces"]


@pytest.mark.parametrize("container", sorted(FORMATS))
@settings(deadline=None, max_examples=8)
@given(tensors=TENSORS, to=st.sampled_from(["safetensors", "arrow"]))
def test_nothing_shows_that_they_were_read_together(
    container: str,
    tmp_path_factory: pytest.TempPathFactory,
    tensors: list[tuple[str, int]],
    to: str,
) -> None:
    folder = tmp_path_factory.mktemp("small")
    found = arrays(tensors)
    if container == "gguf" and not any(map(len, found.values())):
        return
    source = folder / f"m.{container}"
    source.write_bytes(FORMATS[container](found))
    together = converted(source, folder / f"out.{to}", to)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_copies, "SMALL_BYTES", 0)
        assert converted(source, folder / f"out.{to}", to) == together
    model = anamnesis.open_model(folder / f"out.{to}")
    for name, array in found.items():
        if len(array) or container != "gguf":
            assert model[name].to_numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("container", sorted(FORMATS))
def test_few_reads(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2000
    source = tmp_path / f"m.{container}"
    source.write_bytes(FORMATS[container](arrays([("<f4", 4)] * count)))
    out = tmp_path / "out.safetensors"
    made: list[int] = []
    found = small_copies.write_run

    def counted(run: Any, *others: Any) -> Any:
        made.append(len(run.pieces))
        return found(run, *others)

    monkeypatch.setattr("anamnesis.pipeline.task.write_run", counted)
    anamnesis.remember(source, out, executor="serial")
    assert sum(made) == count
    assert len(made) == count // TASK_PIECES  # one a task, in none of which they fill a read
    assert anamnesis.verify(out)["tensors"] == count


def test_what_is_read_at_once_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.safetensors"
    source.write_bytes(save(arrays([("<f4", SMALL_BYTES // 4)] * 40)))
    sizes: list[int] = []
    preadv = os.preadv

    def read(fd: int, parts: Any, offset: int) -> int:
        sizes.append(sum(map(len, parts)))
        return preadv(fd, parts, offset)

    monkeypatch.setattr(os, "preadv", read)
    anamnesis.remember(source, tmp_path / "out.safetensors", executor="serial")
    assert sizes.count(RUN_BYTES) == 2
    assert sizes.count(40 * SMALL_BYTES - 2 * RUN_BYTES) == 1
