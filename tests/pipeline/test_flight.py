"""What the client hands to a cluster, and what it makes of the answers; without a cluster."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from distributed import KilledWorker
from flights import Client, Future, Recorder, receipt

from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.limits import KiB, MiB
from anamnesis.pipeline.executors import Options, SchedulerError, stragglers
from anamnesis.pipeline.executors import distributed as executor
from anamnesis.pipeline.executors.distributed import AHEAD, TRIES, Flight
from anamnesis.pipeline.plan import Spec, Task, make_plan
from anamnesis.pipeline.task import Receipt, run_task
from anamnesis.readers.model import load_model


def test_bytes_in_flight_are_bounded(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "AHEAD", 0)
    cluster, listener = client(), Recorder()
    Flight(cluster, 5 * MiB, listener).run(tasks)
    assert sorted(listener.receipts) == [task.key for task in tasks]
    assert max(t.work_bytes for t in tasks) < cluster.most_flying <= 5 * MiB


def test_the_window_grows_with_the_cluster(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "TASK_BYTES", MiB)
    cluster, listener = client(threads=6), Recorder()
    flight = Flight(cluster, MiB, listener)
    flight.greet(tasks)
    flight.run(tasks)
    assert 6 * MiB < cluster.most_flying <= AHEAD * 6 * MiB
    assert listener.notes == [
        "scheduler tcp://nowhere:1, dashboard http://nowhere:2/status",
        "6 worker thread(s)",
    ]


def test_one_task_flies_however_small_the_window(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    cluster, listener = client(), Recorder()
    Flight(cluster, 1, listener).run(tasks)
    assert len(listener.receipts) == len(tasks)
    assert cluster.most_flying == max(t.work_bytes for t in tasks)


def test_tasks_carry_spans_only(
    fp8_model: Path, tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    """Of large tensors and of thousands of small ones; with markers in the payload."""
    marker = b"PAYLOAD!" * 64
    entries = {}
    for n in range(3000):
        name = f"model.layers.{n}.mlp.experts.{n}.down_proj.weight"
        entries[name] = ("F8_E4M3", (8, 64), marker)
        entries[f"{name}_scale_inv"] = ("F32", (1, 1), np.float32(1).tobytes())
    small = write_safetensors(tmp_path / "small.safetensors", entries)
    for path in (fp8_model, small):
        plan = make_plan(
            load_model(str(path)), Spec(str(tmp_path / "out")), memory_bytes=1 << 29, threads=2
        )
        for task in plan.tasks:
            shipped = pickle.dumps(replace(task, origin="/somewhere", part="/somewhere/out.part"))
            assert len(shipped) < 64 * KiB
            assert b"PAYLOAD!" not in shipped


def test_tasks_know_where_relative_paths_start(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    cluster = client()
    Flight(cluster, 1 << 30, Recorder()).run(tasks[:2])
    assert {task.origin for task in cluster.sent} == {str(Path.cwd())}


def test_a_worker_has_other_device_numbers(
    fp8_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file over NFS: its size and time of change are the same, its device is not."""
    monkeypatch.chdir(tmp_path)
    spec = Spec("out.safetensors")
    plan = make_plan(load_model(fp8_model.name), spec, memory_bytes=1 << 30, threads=1)
    (tmp_path / "part").write_bytes(b"")
    task = replace(plan.tasks[0], part="part", origin=str(tmp_path))
    monkeypatch.chdir("/")
    identity = task.pieces[0].step.tensor.components[0].stored.file
    object.__setattr__(identity, "device", identity.device + 1)
    assert run_task(task).work_bytes == task.work_bytes
    object.__setattr__(identity, "mtime_ns", identity.mtime_ns + 1)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        run_task(task)


def test_the_file_system_gets_another_try(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    def answer(task: Task, before: int) -> Any:
        stale = task is not tasks[0] and task.key == tasks[3].key and before < TRIES - 1
        return OSError(116, "Stale file handle") if stale else receipt(task)

    cluster, listener = client(answer), Recorder()
    Flight(cluster, 1 << 30, listener).run(tasks)
    assert len(listener.receipts) == len(tasks)
    assert len(cluster.sent) == len(tasks) + TRIES - 1


@pytest.mark.parametrize(
    ("error", "sent"), [(OSError(5, "I/O error"), TRIES), (FormatError("bad"), 1)]
)
def test_what_fails_again_has_failed(
    tasks: tuple[Task, ...], client: Callable[..., Client], error: Exception, sent: int
) -> None:
    cluster = client(lambda task, _: error if task.key == tasks[3].key else receipt(task))
    listener = Recorder()
    Flight(cluster, 1 << 30, listener).run(tasks)
    assert listener.errors == {tasks[3].key: error}
    assert len(listener.receipts) == len(tasks) - 1
    assert sum(task.key == tasks[3].key for task in cluster.sent) == sent


def test_c02_only_what_kills_alone_is_guilty(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    """Tasks that were on a worker with a poisonous one are given up with it by Dask."""
    accused = [task.key for task in tasks[3:9]]

    def answer(task: Task, before: int) -> Any:
        guilty = task.key == accused[2] or (task.key in accused and not before)
        return KilledWorker(task.key, "worker", 3) if guilty else receipt(task)

    cluster, listener = client(answer), Recorder()
    Flight(cluster, 1 << 30, listener).run(tasks)
    assert list(listener.errors) == [accused[2]]
    assert len(listener.receipts) == len(tasks) - 1
    assert "every worker that was given it died" in str(listener.errors[accused[2]])
    # One after another, in the order that the accusations came in.
    assert sorted(task.key for task in cluster.sent[len(tasks) :]) == accused


@pytest.mark.parametrize("twin", ["answers", "fails"])
def test_what_does_not_come_back_is_done_elsewhere(
    tasks: tuple[Task, ...],
    client: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    twin: str,
) -> None:
    """The first receipt counts, and no error of one of two; what comes later counts for nothing."""
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(stragglers, "LEAST_SECONDS", 0.05)
    done = threading.Event()

    def answer(task: Task, before: int) -> Any:
        if task.key != tasks[3].key:
            return receipt(task)
        if before:
            done.set()
            return receipt(task) if twin == "answers" else FormatError("of this worker alone")
        assert done.wait(120)  # it hangs
        return receipt(task)

    cluster, listener = client(answer), Recorder()
    cluster.names.append("tcp://other:4")
    flight = Flight(cluster, 1 << 30, listener)
    flight.greet(tasks)
    flight.run(tasks)
    assert sorted(listener.receipts) == [task.key for task in tasks]
    assert listener.errors == {}
    assert cluster.where[len(tasks) :] == [
        {"workers": ["tcp://other:4"], "allow_other_workers": True}
    ]
    assert (flight._flying, flight._futures, flight._flying_bytes) == ({}, {}, 0)
    assert "does not come back" in listener.notes[-1]


def test_a_cluster_of_others_may_have_no_worker_before_it_has_a_task(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    """An adaptive one makes some when it is given work; they are asked when they join."""
    cluster, listener = client(), Recorder()
    cluster.names = []
    flight = Flight(cluster, 1 << 30, listener)
    flight.greet(tasks)
    cluster.names = ["tcp://late:4"]
    monotonic = executor.time.monotonic
    flight._looked = monotonic() - 2 * executor.POLL_SECONDS
    flight.run(tasks)
    assert sorted(listener.receipts) == [task.key for task in tasks]
    assert cluster.asked == [["tcp://late:4"]]
    assert listener.notes[1:] == ["no workers: waiting for some", "2 worker thread(s)"]


def test_c04_a_lost_scheduler_ends_the_run(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    cluster = client(lambda task, _: CancelledError("scheduler-connection-lost"))
    with pytest.raises(ConnectionError, match=r"tcp://nowhere:1 was lost; run the job again"):
        Flight(cluster, 1 << 30, Recorder()).run(tasks)


def test_a_cluster_of_ours_whose_workers_stay_away_is_given_up(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that others run is waited for."""
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(executor, "GIVEN_UP_SECONDS", 0.3)
    revived: list[None] = []
    flight = Flight(client(threads=0), 1 << 30, Recorder(), lambda: revived.append(None))
    with pytest.raises(SchedulerError, match=r"came back in 0 s; run the job again"):
        flight.greet(tasks)
    assert len(revived) > 1


def test_workers_are_looked_after_while_receipts_are_waited_for(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that died with them: their tasks wait until there is another."""
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.01)
    cluster, listener, revived = client(), Recorder(), threading.Event()
    gather = cluster.gather

    async def waits(futures: Sequence[Future], *, asynchronous: bool) -> list[Any]:
        for _ in range(1000):
            if revived.is_set():
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("nobody looked after the workers")
        return await gather(futures, asynchronous=asynchronous)

    monkeypatch.setattr(cluster, "gather", waits)
    Flight(cluster, 1 << 30, listener, revived.set).run(tasks)
    assert len(listener.receipts) == len(tasks)


def test_a_receipt_that_never_comes_ends_the_run_with_what_there_is_to_say(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(executor, "GIVEN_UP_SECONDS", 0.1)
    cluster = client(threads=0)

    async def never(futures: Sequence[Future], *, asynchronous: bool) -> list[Any]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(cluster, "gather", never)
    with pytest.raises(SchedulerError, match=r"no worker of the cluster of this run came back"):
        Flight(cluster, 1 << 30, Recorder(), lambda: None).run(tasks)


def test_nothing_of_a_receipt_stays_on_the_cluster(
    tasks: tuple[Task, ...], client: Callable[..., Client]
) -> None:
    """Dask does a task again whose worker dies while somebody still holds its future."""
    cluster, held = client(), set[str]()

    class Asks(Recorder):
        def done(self, receipt: Receipt) -> None:
            super().done(receipt)
            held.update(
                f.key for f in cluster.futures if f.key == f"{receipt.key}-0" and not f.released
            )

    listener = Asks()
    Flight(cluster, 1 << 30, listener).run(tasks)
    assert len(listener.receipts) == len(tasks)
    assert held == set()


def test_a_scheduler_that_is_lost_while_it_is_asked(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = client()

    def cut() -> dict[str, int]:
        raise distributed.comm.CommClosedError("in <TCP (closed)>: Stream is closed")

    monkeypatch.setattr(cluster, "nthreads", cut)
    with pytest.raises(SchedulerError, match=r"tcp://nowhere:1 was lost; run the job again"):
        Flight(cluster, 1 << 30, Recorder()).greet(tasks)


def test_workers_of_a_cluster_of_ours_have_time_to_start_again(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nanny that was closed while its worker started was never heard of again."""
    found = set()

    def answer(task: Task, before: int) -> Receipt:
        found.add(dask.config.get("distributed.deploy.lost-worker-timeout"))
        return receipt(task)

    local = SimpleNamespace(
        loop=SimpleNamespace(add_callback=lambda *call: None), close=lambda seconds: None
    )
    monkeypatch.setattr(distributed, "LocalCluster", lambda **settings: local)
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: nullcontext(client(answer)))
    executor.run(tasks[:3], Options(2), Recorder())
    assert found == {"10 minutes"}
    assert dask.config.get("distributed.deploy.lost-worker-timeout") != "10 minutes"


def test_a_cluster_of_ours_that_does_not_end_is_ended(
    tasks: tuple[Task, ...], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = SimpleNamespace(pid=None)

    def close(seconds: float) -> None:
        assert seconds == executor.CLOSE_SECONDS
        raise TimeoutError

    loop = SimpleNamespace(add_callback=lambda *call: None)
    local = SimpleNamespace(loop=loop, close=close, workers={0: gone, 1: worker})
    monkeypatch.setattr(distributed, "LocalCluster", lambda **settings: local)
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: nullcontext(client()))
    listener = Recorder()
    try:
        executor.run(tasks[:3], Options(2), listener)
        assert worker.wait() == -signal.SIGKILL
    finally:
        worker.kill()
        worker.communicate()
    assert len(listener.receipts) == 3


def test_an_address_that_is_none(fp8_model: Path, tmp_path: Path) -> None:
    options = executor.Options(2, scheduler="tcp://here")
    plan = make_plan(
        load_model(str(fp8_model)), Spec(str(tmp_path / "o")), memory_bytes=1 << 30, threads=1
    )
    with pytest.raises(UsageError, match=r"run\.scheduler: tcp://here: missing port"):
        executor.run(plan.tasks, options, Recorder())
