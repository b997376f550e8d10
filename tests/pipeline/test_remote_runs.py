"""Conversions of models of a hub: at the speed of the line, within memory, whatever goes wrong."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub import MODEL, Hub, Request, served

import anamnesis
from anamnesis import owned
from anamnesis.errors import IntegrityError
from anamnesis.kernels import Window
from anamnesis.limits import MiB
from anamnesis.pipeline.ahead import Ahead
from anamnesis.pipeline.executors import Options
from anamnesis.pipeline.executors import threads as threads_executor
from anamnesis.pipeline.fit import BASE_BYTES
from anamnesis.pipeline.plan import Spec, make_plan
from anamnesis.pipeline.reading import PROCESS_BYTES, THREAD_BYTES
from anamnesis.pipeline.reads import ranges_of
from anamnesis.readers import retry
from anamnesis.readers.ahead import BLOCK_BYTES, REQUESTS, ReadAhead
from anamnesis.readers.base import Range
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import Contiguous, Placement, Planar, Strided
from anamnesis.readers.remote import RemoteFile

pytest.importorskip("aiohttp")
pytest.importorskip("huggingface_hub")
SIDE = 2048


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)
    with served(monkeypatch) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """FP8 in blocks with scales: two shards of 20 MiB, with a tensor's scale in the other one."""
    rng = np.random.default_rng(7)
    root = tmp_path / "model"
    root.mkdir()
    shards: list[dict[str, tuple[str, tuple[int, ...], bytes]]] = [{}, {}]
    for number in range(10):
        codes = rng.integers(0, 120, SIDE * SIDE, np.uint8).tobytes()
        scales = rng.random((SIDE // 128, SIDE // 128), np.float32).tobytes()
        name = f"layers.{number}.w.weight"
        shards[number % 2][name] = ("F8_E4M3", (SIDE, SIDE), codes)
        grid = ("F32", (SIDE // 128, SIDE // 128), scales)
        shards[(number + number // 9) % 2][f"{name}_scale_inv"] = grid
    weight_map = {}
    for number, tensors in enumerate(shards):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        write_safetensors(root / file, tensors)
        weight_map.update(dict.fromkeys(tensors, file))
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (root / "config.json").write_text(json.dumps({"quantization_config": block}))
    return root


def serve(hub: Hub, folder: Path) -> int:
    """Serve a folder as the model; returns the bytes of its shards."""
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return sum(len(data) for name, data in hub.files.items() if name.endswith(".safetensors"))


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.safetensors"))}


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_a_conversion_at_50_ms_takes_as_long_as_the_bytes(
    hub: Hub, folder: Path, tmp_path: Path, executor: str
) -> None:
    """Measured: 1.05 to 1.1 times, which tests on a busy machine cannot hold: reads overlap."""
    nbytes = serve(hub, folder)
    hub.latency, hub.bandwidth = 0.05, 25e6
    begin = time.monotonic()
    anamnesis.remember(f"hf://{MODEL}", tmp_path / "out", executor=executor)
    assert hub.most > 1
    assert time.monotonic() - begin > nbytes / hub.bandwidth
    anamnesis.remember(folder, tmp_path / "here")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "here")
    shards = [r for r in hub.requests if r.stop - r.start > 300_000 and "cdn" in r.path]
    assert len(shards) <= nbytes / BLOCK_BYTES + 6
    assert hub.sent < nbytes + 2 * MiB


def test_what_comes_over_a_line_is_written_back_as_it_comes(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task waits for its own pages, while others come; none of a local model."""
    serve(hub, folder)
    synced: list[int] = []
    monkeypatch.setattr(owned, "sync_data", synced.append)
    there = load_model(f"hf://{MODEL}")
    plan = make_plan(there, Spec(str(tmp_path / "o")), memory_bytes=400 * MiB, threads=1)
    anamnesis.remember(f"hf://{MODEL}", tmp_path / "out", executor="serial")
    assert len(synced) == len(plan.tasks) > 2
    synced.clear()
    anamnesis.remember(folder, tmp_path / "here", executor="serial")
    assert synced == []


@pytest.mark.parametrize("system", ["linux", "macos", "refuses"])
def test_what_is_local_goes_to_the_disk_while_it_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """Each task has its bytes begun to be written, where the system takes such hints."""
    asked: list[tuple[int, int]] = []

    def advise(fd: int, offset: int, nbytes: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:  # not about what is to be read
            asked.append((offset, nbytes))
        if system == "refuses":
            raise OSError(errno.ESPIPE, "no such thing")

    model = load_model(str(folder))
    plan = make_plan(model, Spec(str(tmp_path / "out")), memory_bytes=400 * MiB, threads=1)
    if system == "macos":
        monkeypatch.delattr(os, "posix_fadvise")
    else:
        monkeypatch.setattr(os, "posix_fadvise", advise)
    anamnesis.remember(folder, tmp_path / "out", executor="serial")
    anamnesis.verify(tmp_path / "out", against=folder)
    written = sum(file.nbytes - len(file.fixed[0][1]) for file in plan.layout.files)
    assert system == "macos" or len(asked) == len(plan.tasks) > 2
    assert sum(nbytes for _, nbytes in asked) == (0 if system == "macos" else written)


def test_bytes_are_the_same_whatever_fails(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """A third of all requests fail, each in another way."""
    serve(hub, folder)
    anamnesis.remember(folder, tmp_path / "here")
    chance = random.Random(5)
    failed: dict[tuple[str, int], int] = {}

    def fault(request: Request) -> str | None:
        key = (request.path, request.start)
        if request.path.startswith("api") or failed.get(key, 0) > 2 or chance.random() > 0.33:
            return None
        failed[key] = failed.get(key, 0) + 1
        if chance.random() < 0.2:
            hub.epoch += 1  # every redirect so far is expired
        return chance.choice(["503", "429", "reset", "cut"])

    hub.fault = fault
    anamnesis.remember(f"hf://{MODEL}", tmp_path / "there", threads=2)
    assert len(failed) > 5
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


@pytest.mark.parametrize("scheme", ["hf", "http"])
def test_an_object_that_changes_during_the_run(
    hub: Hub, folder: Path, tmp_path: Path, scheme: str
) -> None:
    serve(hub, folder)
    name = "model-00002-of-00002.safetensors"

    def fault(request: Request) -> None:
        if request.start > 12 * MiB and name not in hub.versions:  # of whichever shard
            hub.versions[name] = "e" * 64
            hub.epoch += 1

    hub.fault = fault
    url = f"hf://{MODEL}" if scheme == "hf" else f"{hub.url}/"
    with pytest.raises(IntegrityError, match=f"{name}: changed while it was read"):
        anamnesis.remember(url, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_server_that_drips_is_given_up(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, folder)
    monkeypatch.setattr(retry, "STALL_SECONDS", 0.3)
    hub.fault = lambda request: "loris" if request.start > 4 * MiB else None
    with pytest.raises(OSError, match=r"no answer|[Tt]imeout"):  # and not at the end of the body
        anamnesis.remember(f"hf://{MODEL}", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


PLACEMENTS = {
    "contiguous": (Contiguous(12 * 8), 1000 * 12 - 5),
    "bits": (Contiguous(3), 375),
    "whole lines": (Strided(32, 4000), 64 * 4000),
    "near lines": (Strided(32, 4000), 64 * 4000),
    "far lines": (Strided(32, 40_000), 6 * 40_000),
    "a stack": (Strided(32, 4000, 16), 48 * 4000),
    "planes": (Planar(64, 100), 800),
}


@pytest.mark.parametrize("case", PLACEMENTS)
def test_ranges_are_what_is_read(case: str) -> None:
    placement: Placement
    placement, nbytes = PLACEMENTS[case]
    for window in (Window(0, 8), Window(8, 40), Window(40, 1000 if case != "planes" else 120)):
        if placement.matrix_units and window.stop > placement.matrix_units:
            continue
        read: set[int] = set()
        shape = placement.view_shape(nbytes, window.stop - window.start)

        def record(begin: int, buffer: object, read: set[int] = read) -> None:
            read.update(range(begin, begin + len(memoryview(buffer))))  # type: ignore[arg-type]

        placement.fill(record, nbytes, window, np.zeros(shape, np.uint8))
        said: set[int] = set()
        for begin, stop in placement.ranges(nbytes, window):
            said.update(range(begin, stop))
        assert read == said


def test_blocks_stay_within_the_budget(hub: Hub) -> None:
    """Whatever is read of what was announced, in whatever order."""
    data = np.random.default_rng(2).bytes(24 * MiB)
    hub.files = {"m": data}
    url = f"{hub.url}/m"
    with RemoteFile(url) as file:
        ahead = ReadAhead(8 * MiB)
        ranges = [Range(file.id, at, at + MiB) for at in range(0, 20 * MiB, MiB)]
        ahead.add("a", ranges)
        order = [0, 3, 1, 2, *range(15, 3, -1), 16, 17, 18, 19, 0, 22]
        for number in order:
            view = memoryview(bytearray(MiB + 100))
            ahead.read("a", file, number * MiB, view)
            assert view == data[number * MiB : number * MiB + len(view)]
        assert ahead.most_bytes <= 8 * MiB + BLOCK_BYTES
        ahead.drop("a")
        assert ahead.has_room
        ahead.add("b", ranges)
        with pytest.raises(IntegrityError, match="has 25,165,824 bytes"):
            ahead.read("b", file, 24 * MiB - 5, memoryview(bytearray(6)))
        ahead.close()
    assert hub.most <= REQUESTS


def test_what_is_fetched_ahead_is_part_of_the_plan(hub: Hub, folder: Path, tmp_path: Path) -> None:
    serve(hub, folder)
    here, there = load_model(str(folder)), load_model(f"hf://{MODEL}")
    spec = Spec(str(tmp_path / "out"))
    budget = 400 * MiB
    local = make_plan(here, spec, memory_bytes=budget, threads=2)
    remote = make_plan(there, spec, memory_bytes=budget, threads=2)
    assert all(task.ahead_bytes == 0 for task in local.tasks)
    each = {task.ahead_bytes for task in remote.tasks}
    assert min(each) > 40 * MiB
    assert local.memory_bytes < remote.memory_bytes <= budget
    most = max(task.ahead_bytes for task in remote.tasks)
    expected = local.memory_bytes + PROCESS_BYTES + 2 * (THREAD_BYTES + most)
    assert remote.memory_bytes == expected
    tight = make_plan(there, spec, memory_bytes=BASE_BYTES + PROCESS_BYTES + 16 * MiB, threads=2)
    assert tight.threads == 1
    read = sum(r.stop - r.start for task in remote.tasks for r in ranges_of(task))
    assert read == sum(tensor.stored_bytes for tensor in there.tensors)


def test_threads_take_tasks_in_the_order_of_the_plan(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(load_model(str(folder)), Spec("out"), memory_bytes=400 * MiB, threads=1)
    taken: list[str] = []

    class Deaf:
        def wanted(self, task: object) -> bool:
            return True

        def done(self, receipt: object) -> None: ...

        def failed(self, task: object, error: Exception) -> None:
            raise error

        def note(self, text: str) -> None: ...

    monkeypatch.setattr(threads_executor, "run_task", lambda task, _: taken.append(task.key))
    threads_executor.run(plan.tasks, Options(1), Deaf())
    assert len(taken) > 3
    assert taken == [task.key for task in plan.tasks]


def test_tasks_that_are_not_done_leave_no_blocks(hub: Hub, folder: Path, tmp_path: Path) -> None:
    serve(hub, folder)
    model = load_model(f"hf://{MODEL}")
    plan = make_plan(model, Spec(str(tmp_path / "o")), memory_bytes=300 * MiB, threads=1)
    ahead = Ahead(plan.tasks, 1)
    for task in plan.tasks:
        with ahead.of(task):
            pass
    deadline = time.monotonic() + 120
    while ahead.blocks._used and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (ahead.blocks._used, ahead.blocks._waiting, ahead.blocks._flying) == (0, 0, 0)


CONVERT = """
import re, sys
import anamnesis
anamnesis.remember(sys.argv[1], sys.argv[2], memory=int(sys.argv[3]), threads=2)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_peak_of_memory_is_the_one_that_was_promised(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    """All that is fetched ahead included; a warm kernel cache."""
    serve(hub, folder)
    memory = BASE_BYTES + PROCESS_BYTES + 2 * (THREAD_BYTES + 8 * MiB)
    anamnesis.remember(folder, tmp_path / "warm")
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, f"hf://{MODEL}", str(tmp_path / "out"), str(memory)],
        env={**os.environ, "HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert int(re.findall(r"\d+", done.stdout)[-1]) <= memory
    assert files_of(tmp_path / "out") == files_of(tmp_path / "warm")
