"""What is read ahead of every kind of reading: renamed tensors, stats, diff, scan, verify."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import finish
from hub import Hub, Request, served
from strided_views import CASES, derived, stored

import anamnesis
from anamnesis.errors import LimitError
from anamnesis.limits import MiB
from anamnesis.pipeline import reads
from anamnesis.pipeline.fit import BASE_BYTES
from anamnesis.pipeline.plan import step_for, with_dtype
from anamnesis.pipeline.reading import MOST_BYTES, PROCESS_BYTES
from anamnesis.pipeline.windows import Windows
from anamnesis.readers.ahead import BLOCK_BYTES, KEPT, ReadAhead
from anamnesis.readers.base import FileId, Range
from anamnesis.readers.files import Files
from anamnesis.readers.remote import RemoteFile
from anamnesis.readers.source import SourceFile

pytest.importorskip("aiohttp")
WIDTH, LAYERS, HEADS = 1024, 2, 8


def llama(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    """A GGUF whose rows of queries and keys are in another order than transformers has them."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for add, value in (
        (writer.add_block_count, LAYERS),
        (writer.add_embedding_length, WIDTH),
        (writer.add_feed_forward_length, WIDTH),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, HEADS),
        (writer.add_context_length, 64),
        (writer.add_layer_norm_rms_eps, 1e-5),
    ):
        add(value)
    rng = np.random.default_rng(3)
    names = [f"blk.{n}.{part}.weight" for n in range(LAYERS) for part in PARTS]
    for name in ["token_embd.weight", *names]:
        values = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    finish(writer)
    return path


PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served(monkeypatch) as hub:
        yield hub


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("gguf") / "m.gguf", gguf.GGMLQuantizationType.F16)


def renamed(path: Path | str, out: Path) -> Any:
    anamnesis.convert(path, out / "named.safetensors", to="safetensors", names="hf")
    return (out / "named.safetensors").read_bytes()


def counted(path: Path | str, out: Path) -> Any:
    return anamnesis.stats(path).to_dict()["tensors"]


def compared(path: Path | str, out: Path) -> Any:
    return anamnesis.diff(path, path).to_dict()["total"]


def scanned(path: Path | str, out: Path) -> Any:
    return sum(batch.nbytes for batch in anamnesis.scan(path))


def decoded(path: Path | str, out: Path) -> Any:
    return sum(batch.nbytes for batch in anamnesis.scan(path, decode="f32"))


def verified(path: Path | str, out: Path) -> Any:
    return anamnesis.verify(out / "kept", against=str(path))["pieces_decoded"]


def counted_as_hf(path: Path | str, out: Path) -> Any:
    return anamnesis.stats(path, names="hf").to_dict()["tensors"]


def compared_as_hf(path: Path | str, out: Path) -> Any:
    return anamnesis.diff(path, out / "kept").to_dict()["total"]


def decoded_as_hf(path: Path | str, out: Path) -> Any:
    return sum(batch.nbytes for batch in anamnesis.scan(path, decode="f32", names="hf"))


def verified_in_two_passes(path: Path | str, out: Path) -> Any:
    """Each tensor's largest value has to be known before it is encoded."""
    return anamnesis.verify(out / "encoded", against=str(path))["pieces_decoded"]


WORKS = [
    renamed,
    counted,
    compared,
    scanned,
    decoded,
    verified,
    counted_as_hf,
    compared_as_hf,
    decoded_as_hf,
    verified_in_two_passes,
]


@pytest.mark.parametrize("work", WORKS)
def test_everything_is_read_ahead(
    hub: Hub, model: Path, tmp_path: Path, work: Callable[[Path | str, Path], Any]
) -> None:
    """Each takes about as many requests as blocks, and many at a time."""
    anamnesis.convert(model, tmp_path / "kept", to="safetensors", names="hf")
    if work is verified_in_two_passes:
        anamnesis.convert(model, tmp_path / "encoded", to="safetensors", encode="nvfp4")
    (tmp_path / "here").mkdir()
    here = work(model, tmp_path / "here" if work is renamed else tmp_path)
    hub.files = {"m.gguf": model.read_bytes()}
    hub.latency = 0.1
    most, asked = 0, 0

    def count(request: Request) -> None:
        nonlocal most, asked
        if request.path == "m.gguf" and request.start:
            most, asked = max(most, hub._busy), asked + 1

    hub.fault = count
    assert work(f"{hub.url}/m.gguf", tmp_path) == here
    passes = 2 if work is verified_in_two_passes else 1
    assert asked <= passes * 1.5 * model.stat().st_size / BLOCK_BYTES  # each task has its own
    assert most >= 4
    assert hub.sent < passes * model.stat().st_size + 2 * MiB


@pytest.mark.parametrize(("columns", "decode"), [(["tensor", "row"], None), (["row"], "f32")])
def test_columns_without_payload_fetch_none(
    hub: Hub, model: Path, columns: list[str], decode: Any
) -> None:
    hub.files = {"m.gguf": model.read_bytes()}
    rows = sum(b.num_rows for b in anamnesis.scan(model, columns=columns, decode=decode))
    found = anamnesis.scan(f"{hub.url}/m.gguf", columns=columns, decode=decode)
    assert sum(batch.num_rows for batch in found) == rows > 0
    assert hub.sent < 2 * MiB < model.stat().st_size


def test_a_scan_fetches_no_more_ahead_than_its_memory(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ReadAhead] = []
    init = ReadAhead.__init__

    def noted(self: ReadAhead, budget_bytes: int) -> None:
        made.append(self)
        init(self, budget_bytes)

    monkeypatch.setattr(ReadAhead, "__init__", noted)
    hub.files = {"m.gguf": model.read_bytes()}
    for _ in anamnesis.scan(f"{hub.url}/m.gguf", memory="8MiB"):
        pass
    (ahead,) = made
    assert 0 < ahead.most_bytes <= 4 * MiB + BLOCK_BYTES


def test_verify_fetches_ahead_what_its_memory_leaves(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    init = ReadAhead.__init__

    def noted(self: ReadAhead, budget_bytes: int) -> None:
        made.append(budget_bytes)
        init(self, budget_bytes)

    monkeypatch.setattr(ReadAhead, "__init__", noted)
    hub.files = {"m.gguf": model.read_bytes()}
    out, url = tmp_path / "out.safetensors", f"{hub.url}/m.gguf"
    anamnesis.convert(model, out, to="safetensors")
    for memory in ("512MiB", "280MiB"):
        anamnesis.verify(out, against=url, memory=memory)
    assert made[0] == MOST_BYTES
    assert 0 < made[1] < 280 * MiB - BASE_BYTES - PROCESS_BYTES
    with pytest.raises(LimitError, match=r"run\.memory \(--memory\) is .*: set it to at least"):
        anamnesis.verify(out, against=url, memory="250MiB")


@pytest.mark.parametrize("to", ["safetensors", "arrow"])
def test_an_output_in_a_store_is_verified_many_ranges_at_a_time(
    memory: Any, model: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    out = f"memory://b/{to}/"
    anamnesis.convert(model, out, to=to, max_shard_size="10MB")
    here: list[int] = []
    most = asked = 0
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        nonlocal most, asked
        here.append(1)
        most, asked = max(most, len(here)), asked + (end is not None and end - start >= MiB)
        time.sleep(0.05)
        here.pop()
        found: bytes = real(self, path, start=start, end=end, **more)
        return found

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    counts = anamnesis.verify(out)
    assert counts["files"] > 2
    assert 0 < asked <= counts["bytes"] / BLOCK_BYTES + 2 * counts["files"]
    assert most >= 2  # all that a shard has


class Noting:
    """A file that notes what is read of it."""

    def __init__(self, file: SourceFile, read: set[int]) -> None:
        self._file, self._read = file, read
        self.path, self.id, self.size = file.path, file.id, file.size

    def read_into(self, offset: int, buffer: Any) -> None:
        self._read.update(range(offset, offset + len(memoryview(buffer).cast("B"))))
        self._file.read_into(offset, buffer)

    def read(self, offset: int, nbytes: int) -> bytes:
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self, expected: FileId | None = None) -> None: ...

    def close(self) -> None:
        self._file.close()


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
@pytest.mark.parametrize("batch", [1, 5, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_what_is_read_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, batch: int, kind: str
) -> None:
    """Of derived tensors, whose blocks are moved or decoded first."""
    shape, segments = CASES[case]
    array = np.zeros(shape, np.float16 if kind == "F16" else np.float32)
    if kind == "Q8_0" and shape[-1] % 32:
        pytest.skip("no whole blocks")
    form = gguf.GGMLQuantizationType.Q8_0 if kind == "Q8_0" else None
    source = with_dtype(stored(tmp_path / "m.gguf", array, form), "F32")
    step = step_for(derived(source, segments))
    step = replace(step, window_units=min(batch, step.window_units))
    step = replace(step, batch_units=min(batch, step.batch_units) // step.window_units)
    step = replace(step, batch_units=max(1, step.batch_units) * step.window_units)
    monkeypatch.setattr(reads, "is_url", lambda path: True)
    read: set[int] = set()
    files = Files()
    windows = Windows(step, lambda wanted: Noting(files(wanted), read))
    for _ in windows.over():
        pass
    files.close()
    said: set[int] = set()
    for found in reads.ranges_of_step(step, 0, step.tensor.units):
        assert found.loose
        said.update(range(found.start, found.stop))
    assert read
    assert read <= said


def test_rows_that_are_far_apart_are_not_all_said() -> None:
    found = list(reads.spans(7, (1, 100_000), (3, 4), 1000))
    assert found == [(7 + k * 100_000, 10 + k * 100_000) for k in range(4)]
    assert list(reads.spans(7, (1, 100), (3, 4), 1000)) == [(7, 310)]
    assert list(reads.spans(0, (1,), (0,), 1000)) == []
    assert list(reads.spans(5, (0, 2), (9, 2), 1)) == [(5, 8)]


def test_loose_blocks_make_way_and_come_back(hub: Hub) -> None:
    """More of them than the budget has room for, each read in part, twice, and not to its end."""
    data = np.random.default_rng(2).bytes(96 * MiB)
    hub.files = {"m": data}
    with RemoteFile(f"{hub.url}/m") as file:
        ahead = ReadAhead(32 * MiB)
        ahead.add("a", [Range(file.id, 0, len(data), loose=True)] * 2)
        most = 0
        for at in [*range(MiB, 96 * MiB, 2 * MiB)] * 2:
            view = memoryview(bytearray(MiB))
            ahead.read("a", file, at, view)
            assert view == data[at : at + MiB]
        asked = [r for r in hub.requests if r.start]
        assert all(r.stop - r.start == BLOCK_BYTES for r in asked)  # none was read row by row
        assert len(asked) <= 2 * 24 + KEPT
        most = max(most, ahead.most_bytes)
        assert most <= 32 * MiB + BLOCK_BYTES
        ahead.close()
    deadline = time.monotonic() + 120
    while ahead._used and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (ahead._used, ahead._waiting, ahead._flying) == (0, 0, 0)
