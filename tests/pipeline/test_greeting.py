"""Workers that cannot do the tasks are named: those at the start, and those that join later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed
import pytest
from flights import Client, Recorder, receipt
from hub import MODEL, served

import anamnesis
from anamnesis.errors import LimitError, UsageError
from anamnesis.limits import MiB
from anamnesis.pipeline.executors import distributed as executor
from anamnesis.pipeline.executors import greeting
from anamnesis.pipeline.executors.distributed import Flight
from anamnesis.pipeline.plan import Spec, Task, make_plan
from anamnesis.pipeline.task import Receipt
from anamnesis.readers import retry
from anamnesis.readers.model import load_model


def test_c03_a_worker_with_too_little_memory_is_refused(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    cluster = client()
    cluster.memory_limit = 200 * MiB
    with pytest.raises(LimitError, match=r"worker tcp://worker:3: 2 thread\(s\) need .*--nthreads"):
        Flight(cluster, 1 << 30, Recorder()).greet(tasks)


@pytest.mark.parametrize(("form", "limit"), [("safetensors", 383), ("parquet", 540)])
def test_what_a_thread_holds_to_send_is_part_of_what_a_worker_needs(
    fp8_model: Path, client: Callable[..., Client], form: str, limit: int
) -> None:
    """256 MiB, and for each of two threads 64 MiB of parts; to pack Parquet takes 80 MiB more."""
    spec = Spec(f"memory://out.{form}", format=form)
    plan = make_plan(load_model(str(fp8_model)), spec, memory_bytes=1 << 30, threads=2)
    cluster = client()
    cluster.memory_limit = limit * MiB
    with pytest.raises(LimitError, match=r"worker tcp://worker:3: 2 thread\(s\) need"):
        Flight(cluster, 1 << 30, Recorder()).greet(plan.tasks)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (("0.0.7", ""), "has version 0.0.7, here is"),
        ((anamnesis.__version__, "/data/model: not found there"), "/data/model: not found there"),
        (ModuleNotFoundError("No module named 'anamnesis'"), "No module named 'anamnesis'"),
    ],
)
def test_a_worker_that_cannot_do_it_is_named(
    tasks: tuple[Task, ...], client: Callable[..., Client], says: Any, expected: str
) -> None:
    cluster = client()
    cluster.says = says
    with pytest.raises(UsageError, match=f"worker tcp://worker:3: .*{expected}"):
        Flight(cluster, 1 << 30, Recorder()).greet(tasks)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("private", "credentials of"), ("gone", "credentials of"), ("absent", "not found there")],
)
def test_an_input_behind_a_url_is_asked_of_workers(
    fp8_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: Callable[..., Client],
    kind: str,
    why: str,
) -> None:
    """A worker without the hub's token, or a way to it, is named before a task is sent."""
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.0)
    with served(monkeypatch) as hub:
        hub.files = {"model.safetensors": fp8_model.read_bytes()}
        spec = Spec("memory://out.safetensors")
        plan = make_plan(load_model(f"hf://{MODEL}"), spec, memory_bytes=1 << 30, threads=2)
        paths = greeting._paths(plan.tasks[0])
        assert greeting._answer(paths) == (anamnesis.__version__, "")
        assert hub.requests[-1].stop - hub.requests[-1].start == 1
        if kind == "private":
            hub.tokens, hub.epoch = ("another",), 2  # what it redirected to is over
        elif kind == "absent":
            hub.files, hub.epoch = {}, 2
        else:
            hub.fault = lambda request: "reset"
        cluster = client()
        cluster.says = greeting._answer(paths)
        with pytest.raises(UsageError, match=rf"worker tcp://worker:3: (?!FileId).*hf://.*{why}"):
            Flight(cluster, 1 << 30, Recorder()).greet(plan.tasks)


def test_a_worker_that_leaves_while_it_is_asked_is_forgotten(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    """Its connection breaks; it is not said to lack this package, and another does the tasks."""
    cluster, listener = client(), Recorder()

    def says() -> Any:
        if len(cluster.asked) > 1:
            return anamnesis.__version__, ""
        cluster.names = ["tcp://another:4"]
        return distributed.comm.CommClosedError("in <TCP>: Stream is closed")

    cluster.says = says
    flight = Flight(cluster, 1 << 30, listener)
    flight.greet(tasks)
    flight.run(tasks)
    assert len(listener.receipts) == len(tasks)
    assert cluster.asked[0] == ["tcp://worker:3"]
    cluster.says, cluster.names = OSError("timed out"), ["tcp://stays:5"]
    with pytest.raises(UsageError, match=r"worker tcp://stays:5: the scheduler cannot reach it"):
        Flight(cluster, 1 << 30, listener).greet(tasks)


def test_a_worker_that_joins_later_is_asked(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and the run ends with its name when it cannot do the tasks."""
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.01)
    held = threading.Event()

    def answer(task: Task, before: int) -> Receipt:
        held.wait()
        return receipt(task)

    cluster, listener = client(answer), Recorder()
    flight = Flight(cluster, MiB, listener)
    flight.greet(tasks)

    def says() -> Any:
        held.set()
        return "0.0.7", ""

    cluster.says = says
    cluster.names = ["tcp://worker:3", "tcp://late:4"]
    try:
        with pytest.raises(UsageError, match=r"worker tcp://late:4: has version 0\.0\.7, here is"):
            flight.run(tasks)
    finally:
        held.set()
    assert cluster.asked == [["tcp://worker:3"], ["tcp://late:4"]]


def test_what_a_late_worker_fails_with_is_told_by_its_answer(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    """A task that it cannot even read fails before anybody has asked it."""
    cluster, listener = (
        client(lambda task, before: ModuleNotFoundError("anamnesis.new")),
        Recorder(),
    )
    flight = Flight(cluster, MiB, listener)
    flight.greet(tasks)
    cluster.says = ModuleNotFoundError("No module named 'anamnesis'")
    cluster.names.append("tcp://late:4")
    with pytest.raises(UsageError, match=r"worker tcp://late:4: .*needs this package"):
        flight.run(tasks)
    assert listener.errors == {}
