from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import s3_server
from flights import Answer, Client, receipt
from progress_runs import Clock

from anamnesis.limits import MiB
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.plan import Spec, Task, make_plan
from anamnesis.readers.model import load_model


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a job of that text; its path."""

    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Of an S3 server for all tests, which have buckets of their own."""
    with s3_server() as url:
        yield url


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is set."""
    return Clock()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """A model folder: three tensors of 4 kB, one of them FP8, and a configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 126, (32, 64), dtype=np.uint8)
    entries: dict[str, Any] = {
        name: ("BF16", (2048,), rng.integers(0, 9999, 2048, dtype=np.uint16).tobytes())
        for name in ("a", "b")
    }
    entries["c.weight"] = ("F8_E4M3", (32, 64), codes.tobytes())
    entries["c.weight_scale"] = ("F32", (), np.float32(0.5).tobytes())
    write_safetensors(folder / "model.safetensors", entries)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Makes clients of a cluster that is none; by default every task is done."""
    made: list[Client] = []

    def make(answer: Answer = lambda task, before: receipt(task), threads: int = 2) -> Client:
        made.append(Client(answer, threads))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def tasks(fp8_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, ...]:
    """Over twenty, of 1 MiB at most."""
    monkeypatch.setattr(planning, "TASK_BYTES", MiB)
    monkeypatch.setattr(planning, "WINDOW_BYTES", MiB)
    spec = Spec(str(tmp_path / "out.safetensors"))
    plan = make_plan(load_model(str(fp8_model)), spec, memory_bytes=1 << 30, threads=2)
    assert len(plan.tasks) > 20
    part = str(tmp_path / ".out.part")
    return tuple(replace(task, part=part) for task in plan.tasks)
