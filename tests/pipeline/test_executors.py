"""Every executor writes the same bytes, through both sinks."""

from __future__ import annotations

from pathlib import Path

import pytest

import anamnesis
from anamnesis.errors import IntegrityError, SecurityError
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.executors import EXECUTORS, Options, executor
from anamnesis.pipeline.plan import Spec, Task, make_plan
from anamnesis.pipeline.task import Receipt
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
        threads = 1 if name == "serial" else 2
        anamnesis.remember(fp8_model, out, to=to, executor=name, threads=threads)
        written[name] = out.read_bytes()
        assert anamnesis.verify(out)["tensors"] == 6
    assert len(set(written.values())) == 1


@pytest.mark.parametrize("name", ["serial", "threads"])
def test_errors_are_told_and_unwanted_tasks_are_left(
    fp8_model: Path, tmp_path: Path, name: str
) -> None:
    model = load_model(str(fp8_model))
    plan = make_plan(model, Spec(str(tmp_path / "o.safetensors")), memory_bytes=1 << 30, threads=2)
    fp8_model.write_bytes(fp8_model.read_bytes()[:-1])
    listener = Recorder()
    executor(name)(plan.tasks, Options(2), listener)
    assert isinstance(listener.errors[0], IntegrityError | SecurityError)  # there is no `.part`
    assert len(listener.errors) + len(listener.receipts) < len(plan.tasks)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_tell_of_tasks_in_their_order(
    fp8_model: Path, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is finished by the last of its tasks, and an interruption keeps those that are."""
    model = load_model(str(fp8_model))
    spec = Spec(str(tmp_path / "o.safetensors"))
    plan = make_plan(model, spec, memory_bytes=1 << 30, threads=threads)

    def fails(task: Task, unwanted: object) -> None:
        raise ValueError(task.key)

    monkeypatch.setattr("anamnesis.pipeline.executors.threads.run_task", fails)
    listener = Recorder()
    monkeypatch.setattr(listener, "wanted", lambda task: True)
    executor("threads")(plan.tasks, Options(threads), listener)
    keys = [task.key for task in plan.tasks]
    told = [str(error) for error in listener.errors]
    assert sorted(told) == keys
    assert len(keys) > 4 * threads
    assert set(told[:threads]) <= set(keys[: 2 * threads])  # threads may overtake each other
    if threads == 1:
        assert told == keys


class Recorder:
    """A listener that wants nothing more after the first error."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.errors: list[Exception] = []

    def wanted(self, task: Task) -> bool:
        return not self.errors

    def done(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)

    def failed(self, task: Task, error: Exception) -> None:
        self.errors.append(error)

    def note(self, text: str) -> None:
        pass
