"""safetensors or GGUF to Arrow to safetensors: the bytes are those without the detour."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.pipeline import plan as planning
from anamnesis.readers import open_container
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.raw import open_raw
from anamnesis.readers.source import LocalFile, open_source
from anamnesis.writers import arrow, arrow_slot
from anamnesis.writers.base import Item, Storage
from anamnesis.writers.part import PartFile

SAMPLE = Path(__file__).resolve().parents[2] / "configs/sample/smollm2-135m-layer0.gguf"
CODECS = ("none", "lz4", "zstd")
DENSE = [d for d, row in DTYPES.items() if row.kind in ("float", "int", "bool")]


def safetensors(path: Path, entries: list[tuple[str, str, tuple[int, ...]]]) -> None:
    """Random bytes, in the order of `entries` whatever their dtypes are."""
    rng = np.random.default_rng(0)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, dtype, shape in entries:
        elems = int(np.prod(shape, dtype=int))
        bits = np.ones(elems, bool) if dtype == "BOOL" else None
        part = rng.integers(0, 256, elems * DTYPES[dtype].bits // 8, np.uint8).tobytes()
        part = part if bits is None else bits.tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data)]}
        data += part
        header[name]["data_offsets"].append(len(data))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def every_dtype() -> list[tuple[str, str, tuple[int, ...]]]:
    shapes: list[tuple[int, ...]] = [(), (7,), (5, 3), (2, 3, 4), (0,), (0, 4), (3, 0), (1, 200)]
    entries = [(f"{d}.{n}", d, s) for n, s in enumerate(shapes) for d in DENSE]
    return [*entries, ("слой.é🦙", "BF16", (3, 2)), ("", "F32", (2,)), ("n" * 300, "F16", (4, 4))]


def convert(source: Path, out: Path, **settings: Any) -> Path:
    anamnesis.remember(source, out, threads=2, overwrite=True, **settings)
    return out


@pytest.mark.parametrize("batches", ["small", "as configured"])
@pytest.mark.parametrize("codec", CODECS)
def test_every_dtype_and_shape(
    codec: str, batches: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if batches == "small":
        monkeypatch.setattr(arrow_slot, "BATCH_BYTES", 50)
        monkeypatch.setattr(planning, "WINDOW_BYTES", 33)
        monkeypatch.setattr(planning, "TASK_BYTES", 100)
    source = tmp_path / "source.safetensors"
    safetensors(source, every_dtype())
    plain = convert(source, tmp_path / "plain.safetensors")
    middle = convert(source, tmp_path / "m.arrow", to="arrow", compression=codec)
    assert anamnesis.verify(middle)["tensors"] == len(every_dtype())
    assert anamnesis.verify(middle, against=source)["pieces_decoded"] > 60
    back = convert(middle, tmp_path / "back.safetensors")
    assert back.read_bytes() == plain.read_bytes()
    again = convert(middle, tmp_path / "again.arrow", to="arrow", compression=codec)
    before, after = (open_container(str(p), Limits()).stored for p in (middle, again))
    assert list(before) == list(after) == [name for name, _, _ in every_dtype()]


@pytest.mark.parametrize("codec", CODECS)
def test_what_safetensors_would_be_again(codec: str, tmp_path: Path) -> None:
    """A file that is laid out as this program does it comes back whole."""
    safetensors(tmp_path / "source.safetensors", every_dtype())
    source = convert(tmp_path / "source.safetensors", tmp_path / "a.safetensors")
    middle = convert(source, tmp_path / "m.arrow", to="arrow", compression=codec, bf16="uint16")
    back = convert(middle, tmp_path / "back.safetensors")
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("codec", CODECS)
def test_a_gguf_model(codec: str, tmp_path: Path) -> None:
    plain = convert(SAMPLE, tmp_path / "plain.safetensors")
    middle = convert(SAMPLE, tmp_path / "m.arrow", to="arrow", compression=codec)
    assert convert(middle, tmp_path / "b.safetensors").read_bytes() == plain.read_bytes()
    floats = convert(SAMPLE, tmp_path / "f.safetensors", dtype="f32")
    middle = convert(SAMPLE, tmp_path / "f.arrow", to="arrow", compression=codec, dtype="f32")
    assert convert(middle, tmp_path / "g.safetensors").read_bytes() == floats.read_bytes()


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_folder_of_parts(codec: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_shard_size": 1_300_000}
    plain = convert(SAMPLE, tmp_path / "plain", **settings)
    middle = convert(SAMPLE, tmp_path / "parts", to="arrow", compression=codec, **settings)
    names = sorted(os.listdir(middle))
    assert len(names) > 3
    back = convert(middle, tmp_path / "back", **settings)
    assert sorted(os.listdir(back)) == sorted(os.listdir(plain))
    for name in os.listdir(plain):
        assert (back / name).read_bytes() == (plain / name).read_bytes()
    pattern = convert(tmp_path / "parts" / "*.arrow", tmp_path / "glob", **settings)
    assert sorted(os.listdir(pattern)) == sorted(os.listdir(plain))


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    parts = convert(SAMPLE, tmp_path / "parts", to="arrow", max_shard_size=3_000_000)
    names = sorted(os.listdir(parts))
    lone = anamnesis.inspect(parts / names[1])
    assert lone.notes == (
        f"{parts / names[1]}: is part 2 of {len(names)}; the tensors of the others are not in it",
    )
    assert not anamnesis.inspect(parts).notes
    shutil.copy(parts / names[1], parts / "part-09.arrow")
    with pytest.raises(FormatError, match=r"part-09\.arrow: is not of the same dataset"):
        anamnesis.inspect(parts)
    (parts / "part-09.arrow").unlink()
    (parts / names[1]).unlink()
    with pytest.raises(FormatError, match=rf"part 2 of {len(names)} is missing"):
        anamnesis.inspect(parts)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [d for d, row in DTYPES.items() if row.bits == 8])
def test_codes_are_stored_as_they_are(dtype: str, codec: str, tmp_path: Path) -> None:
    """FP8 too, although nothing is done with codes that have no scale."""
    item = Item("w", (40, 5), dtype, 200)
    path = tmp_path / "w.arrow"
    layout = arrow.layout([item], path, 1, Storage(codec))
    part = PartFile(layout.files[0])
    data = bytes(range(200))
    with part.part.open("r+b") as file:
        layout.places[0][1].write(file.fileno(), 0, data)
    part.commit(arrow)
    stored = open_container(str(path), Limits()).stored["w"]
    assert (stored.dtype, stored.shape, stored.nbytes) == (dtype, (40, 5), 200)
    found = np.empty(200, np.uint8)
    with open_source(str(path)) as source:
        open_raw(stored, source).read_into(0, found)
        assert found.tobytes() == data
        some = found[:11]
        for begin in (189, 150, 3, 100):  # backwards too
            open_raw(stored, source).read_into(begin, some)
            assert some.tobytes() == data[begin : begin + 11]


@pytest.mark.parametrize("shape", [(2**31 + 5,), (3, 2**30 + 1), (2**20 + 3, 2**11)])
def test_more_than_two_to_the_31_elements(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening reads the metadata alone; the last elements are where they were written."""
    items = [Item("huge", shape, "U8", int(np.prod(shape))), Item("after", (2, 2), "U8", 4)]
    path = tmp_path / "m.arrow"
    (file,) = (layout := arrow.layout(items, path, 1)).files
    part = PartFile(file)  # sparse
    slot = layout.places[0][1]
    assert isinstance(slot, arrow_slot.ArrowSlot)
    with part.part.open("r+b") as sparse:
        for batch in range(slot.batches):
            slot.write(sparse.fileno(), batch * slot.batch_rows * shape[-1], b"\1")
        slot.write(sparse.fileno(), items[0].elems - 3, b"\7\x08\x09")
        layout.places[1][1].write(sparse.fileno(), 0, b"\1\2\3\4")
    part.commit(arrow)
    read = 0
    read_into = LocalFile.read_into

    def counted(self: LocalFile, offset: int, buffer: Any) -> None:
        nonlocal read
        read += len(buffer)
        read_into(self, offset, buffer)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFile, "read_into", counted)
        model = anamnesis.open_model(path)
    assert read < 100_000
    assert model["huge"].shape == shape
    stored = model.model.stored["huge"]
    assert stored.nbytes == items[0].elems
    last = np.empty(5, np.uint8)
    with open_source(str(path)) as source:
        open_raw(stored, source).read_into(stored.nbytes - 5, last)
    assert last.tolist() == [0, 0, 7, 8, 9]
    assert model["after"].to_numpy().tolist() == [[1, 2], [3, 4]]
    out = tmp_path / "o.safetensors"
    spec = planning.Spec(str(out))
    plan = planning.make_plan(model.model, spec, memory_bytes=1 << 30, threads=2)
    assert sum(task.work_bytes for task in plan.tasks) == items[0].elems + 4


def test_a_compressed_row_longer_than_a_task_is_one_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can only be unpacked from its start; cut in tasks, it would be again and again."""
    source = tmp_path / "s.safetensors"
    safetensors(source, [("long", "BF16", (50_000,)), ("short", "BF16", (500, 100))])
    monkeypatch.setattr(arrow_slot, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(planning, "WINDOW_BYTES", 1_000)
    plain = convert(source, tmp_path / "p.safetensors")
    for codec in CODECS:
        middle = convert(source, tmp_path / f"{codec}.arrow", to="arrow", compression=codec)
        with monkeypatch.context() as patch:
            patch.setattr(planning, "TASK_BYTES", 20_000)
            model = anamnesis.open_model(middle).model
            spec = planning.Spec(str(tmp_path / "o.safetensors"))
            plan = planning.make_plan(model, spec, memory_bytes=1 << 30, threads=2)
            long = [p for t in plan.tasks for p in t.pieces if p.step.tensor.name == "long"]
            short = [p for t in plan.tasks for p in t.pieces if p.step.tensor.name == "short"]
            assert len(long) == (5 if codec == "none" else 1)
            assert len(short) == 5
            back = convert(middle, tmp_path / "b.safetensors")
        assert back.read_bytes() == plain.read_bytes()


def test_quantised_inputs_come_out_dense(tmp_path: Path) -> None:
    model = anamnesis.open_model(convert(SAMPLE, tmp_path / "m.arrow", to="arrow"))
    assert {model[name].scheme for name in model} == {"passthrough"}
    safetensors(tmp_path / "c.safetensors", [("w", "F8_E4M3", (2, 2))])
    with pytest.raises(UnsupportedError, match="FP8 codes without a scale"):
        anamnesis.remember(tmp_path / "c.safetensors", tmp_path / "c.arrow", to="arrow")
