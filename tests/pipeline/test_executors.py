"""Every executor writes the same bytes, through both sinks."""

from __future__ import annotations

from pathlib import Path

import pytest

import anamnesis
from anamnesis.errors import IntegrityError
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.executors import EXECUTORS, Options, executor
from anamnesis.pipeline.plan import Spec, make_plan
from anamnesis.readers.model import load_model


@pytest.fixture(autouse=True)
def many_small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "TASK_BYTES", 2 << 20)
    monkeypatch.setattr(planning, "WINDOW_BYTES", 300_000)


@pytest.mark.parametrize("to", ["safetensors", "arrow"])
def test_same_bytes_from_every_executor(fp8_model: Path, tmp_path: Path, to: str) -> None:
    written = {}
    for name in EXECUTORS:
        out = tmp_path / f"{name}.{to}"
        select = ["a*", "b*", "c*", "norm*"] if to == "arrow" else ["*"]
        threads = 1 if name == "serial" else 2
        anamnesis.remember(fp8_model, out, to=to, executor=name, threads=threads, include=select)
        written[name] = out.read_bytes()
        assert anamnesis.verify(out)["tensors"] >= 4
    assert len(set(written.values())) == 1


@pytest.mark.parametrize("name", ["serial", "threads"])
def test_the_first_error_is_raised_and_the_rest_stops(
    fp8_model: Path, tmp_path: Path, name: str
) -> None:
    model = load_model(str(fp8_model))
    plan = make_plan(model, Spec(str(tmp_path / "o.safetensors")), memory_bytes=1 << 30, threads=2)
    fp8_model.write_bytes(fp8_model.read_bytes()[:-1])
    done = []
    with pytest.raises((IntegrityError, FileNotFoundError)):
        executor(name)(plan.tasks, Options(2), done.append)
    assert len(done) < len(plan.tasks)
