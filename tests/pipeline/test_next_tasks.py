"""Of local files the system is asked for what the next tasks begin with, while others run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.pipeline import ahead
from anamnesis.readers.source import LocalFile

WINDOW, TASK = 64 * 1024, 256 * 1024
pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What is asked for and read of payloads, in order: offsets and bytes."""
    found: list[tuple[str, int, int]] = []
    plain = LocalFile.read_into

    def read_into(self: LocalFile, offset: int, buffer: Any) -> None:
        if memoryview(buffer).nbytes >= WINDOW:
            found.append(("read", offset, memoryview(buffer).nbytes))
        plain(self, offset, buffer)

    def advise(fd: int, offset: int, nbytes: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            found.append(("ask", offset, nbytes))

    monkeypatch.setattr(LocalFile, "read_into", read_into)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", WINDOW)
    monkeypatch.setattr("anamnesis.pipeline.plan.LEAST_TASK_BYTES", TASK)
    monkeypatch.setattr("anamnesis.pipeline.plan.TASKS", 8)
    return found


def _convert(tmp_path: Path, executor: str, threads: int) -> None:
    rng = np.random.default_rng(1)
    source = tmp_path / "in.safetensors"
    save_file({"a": rng.standard_normal((1024, 1024)).astype(np.float32)}, source)
    out = tmp_path / "out.safetensors"
    anamnesis.convert(
        source, out, to="safetensors", passthrough="bf16", executor=executor, threads=threads
    )


@pytest.mark.parametrize(("executor", "threads"), [("serial", 1), ("threads", 1), ("threads", 3)])
def test_the_beginning_of_each_later_task(
    tmp_path: Path, events: list[tuple[str, int, int]], executor: str, threads: int
) -> None:
    _convert(tmp_path, executor, threads)
    asked = [event[1:] for event in events if event[0] == "ask"]
    read = [event[1:] for event in events if event[0] == "read"]
    assert len(set(asked)) == len(asked) < len(read)
    assert set(asked) <= set(read)
    # The first tasks of all have nobody who would ask for them.
    rest = len(read) // 8 * (8 - threads)
    assert len(asked) == rest
    assert sorted(asked) == sorted(read)[-rest:]
    if threads == 1:
        for one in asked:
            assert events.index(("ask", *one)) < events.index(("read", *one))


def test_no_more_than_so_many_bytes(
    tmp_path: Path, events: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "NEXT_BYTES", WINDOW)
    _convert(tmp_path, "serial", 1)
    asked = [nbytes for kind, _, nbytes in events if kind == "ask"]
    assert asked == [WINDOW] * 7
