"""Work grows with the number of tensors and no faster: no step looks at all others for each."""

from __future__ import annotations

import gc
import io
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pth_bytes
import pytest
from pickled_entries import EntryWriter

import anamnesis
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job

SHAPE, NBYTES = [2, 4], 16


def names(count: int) -> list[str]:
    return [f"layers.{n // 100}.experts.{n % 100}.down_proj.weight" for n in range(count)]


def safetensors_of(count: int) -> bytes:
    header = {
        name: {"dtype": "BF16", "shape": SHAPE, "data_offsets": [n * NBYTES, (n + 1) * NBYTES]}
        for n, name in enumerate(names(count))
    }
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(count * NBYTES)


def gguf_of(count: int) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    parts = [b"GGUF", struct.pack("<IQQ", 3, count, 0)]
    for n, name in enumerate(names(count)):
        parts.append(text(name) + struct.pack("<IQQIQ", 2, *reversed(SHAPE), 30, n * 32))
    head = b"".join(parts)
    return head + bytes(-len(head) % 32) + bytes(count * 32)


def pth_of(count: int) -> bytes:
    writer = EntryWriter()
    for n, name in enumerate(names(count)):
        writer.entry(name, "0", count * 8, n * 8, SHAPE)
        if not n % 1000:
            writer.data += b"u("
    return pth_bytes.pth(writer.end(), {"0": bytes(count * 32)})


def npz_of(count: int) -> bytes:
    member = io.BytesIO()
    np.save(member, np.zeros(SHAPE, "<f4"))
    return pth_bytes.archive([(f"{name}.npy", member.getvalue()) for name in names(count)])


FORMATS: dict[str, Callable[[int], bytes]] = {
    "gguf": gguf_of,
    "npz": npz_of,
    "pth": pth_of,
    "safetensors": safetensors_of,
}


Task = Callable[[], Any]


def calls(function: Callable[[], Any]) -> int:
    """Calls of Python and C functions that one call makes, in this thread."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def tasks(tmp_path: Path, container: str, count: int, target: str) -> dict[str, Task]:
    """What users do with a model of so many tensors, in this order."""
    source = tmp_path / f"{count}.{container}"
    source.write_bytes(FORMATS[container](count))
    out = tmp_path / f"{count}.out"
    job = job_from(
        inputs=[source],
        output={"path": out, "format": target},
        run={"executor": "serial", "memory": "2GiB"},
    )
    return {
        "inspect": lambda: anamnesis.inspect(source),
        "convert": lambda: run_job(job),
        "verify": lambda: anamnesis.verify(out),
    }


@pytest.mark.parametrize(
    ("container", "target"),
    [
        ("gguf", "safetensors"),
        ("npz", "safetensors"),
        ("pth", "parquet"),
        ("safetensors", "arrow"),
        ("safetensors", "safetensors"),
    ],
)
def test_ten_times_the_calls(tmp_path: Path, container: str, target: str) -> None:
    few, many = (tasks(tmp_path, container, count, target) for count in (200, 2_000))
    for task in tasks(tmp_path, container, 1, target).values():
        task()  # imports
    for what, task in few.items():
        before, now = calls(task), calls(many[what])
        assert now < 10.5 * before, (what, before, now)


@pytest.mark.parametrize("container", sorted(FORMATS))
def test_ten_times_the_time(tmp_path: Path, container: str, request: pytest.FixtureRequest) -> None:
    """Also of what C does in one call, such as a search in a list: processor time, with much room.

    A search through all others for each tensor would take a hundred times as much.
    """
    gc.collect()
    gc.freeze()  # what other tests left is not looked through again and again
    request.addfinalizer(gc.unfreeze)
    few, many = (tasks(tmp_path, container, count, "safetensors") for count in (4_000, 40_000))
    tasks(tmp_path, container, 100, "safetensors")["convert"]()  # imports
    # What comes after the input has been read is the same for all of them.
    for what in few if container == "safetensors" else ["inspect"]:
        before, now = seconds(few[what]), seconds(many[what])
        assert now < 25 * before + 0.5, (what, before, now)
