"""A task's parts on their way to a store: two at a time, while it goes on, and none behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from buckets import KEYS, Bucket, forget_clients

from anamnesis.limits import KiB
from anamnesis.readers import retry
from anamnesis.writers import safetensors, upload
from anamnesis.writers.base import OutFile
from anamnesis.writers.objects import Driven
from anamnesis.writers.outbox import FLYING
from anamnesis.writers.s3 import S3
from anamnesis.writers.stores import located, store_of

PART = 50 * KiB
DATA = bytes(range(250)) * (4 * PART // 250)
OPEN = {"task": lambda store, part: store.open_part(part)}
OPEN["pack"] = lambda store, part: store.open_pack(part)


class Held:
    """Stands in for a store's `part`, and holds each one until `meet` lets it go."""

    def __init__(self, kind: type[Driven | S3], monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed, self.begun, self.flying, self.most = threading.Condition(), 0, 0, 0
        self.meet: Callable[[int], None] = lambda number: None
        send = kind.part

        def part(store: Any, url: str, upload: str, number: int, data: Any) -> str:
            with self.changed:
                self.begun, self.flying = self.begun + 1, self.flying + 1
                self.most = max(self.most, self.flying)
                self.changed.notify_all()
            try:
                self.meet(number)
                return str(send(store, url, upload, number, data))
            finally:
                with self.changed:
                    self.flying -= 1
                    self.changed.notify_all()

        monkeypatch.setattr(kind, "part", part)

    def until(self, met: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(met, 120)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "part_bytes", lambda nbytes: PART)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)


@pytest.fixture(params=["memory", "s3"])
def place(
    request: pytest.FixtureRequest, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, type[Driven | S3], Callable[[], object]]]:
    """A URL, what sends parts there, and a function that lists all that is left of an output."""
    if request.param == "memory":
        yield "memory://b/out", Driven, lambda: list(memory.store)
        return
    endpoint: str = request.getfixturevalue("endpoint")
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(key, value)
    forget_clients()
    bucket = Bucket(endpoint, "outbox")
    yield "s3://outbox/out", S3, lambda: bucket.objects() + bucket.uploads()
    forget_clients()


@pytest.mark.parametrize("kind", OPEN)
def test_two_parts_are_on_their_way_while_a_third_is_filled(
    memory: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The first waits for the second, which waits until all else was written; never a third."""
    held = Held(Driven, monkeypatch)
    store, out = store_of("memory://b/out"), OutFile("memory://b/out", len(DATA), ())
    part = store.part(located(out.path), "0123456789")
    unfinished = store.create(out, part, overwrite=True)
    filled = threading.Event()

    def meet(number: int) -> None:
        if number == 1:
            held.until(lambda: held.begun >= 2)
        if number == 2:
            assert filled.wait(120)

    held.meet = meet
    with closing(OPEN[kind](store, part)) as sink:
        sink.write(DATA[: 3 * PART - 9], 0)
        filled.set()
        sink.write(DATA[3 * PART - 9 :], 3 * PART - 9)
        if kind == "task":
            unfinished.receive(sink.finish(False))
        else:
            sink.end(len(DATA))
            unfinished.receive(sink.stored())
    assert held.most == FLYING
    unfinished.commit(safetensors)
    assert memory.store["/b/out"].getvalue() == DATA


@pytest.mark.parametrize("kind", OPEN)
def test_a_part_that_fails_beside_another(
    place: tuple[str, type[Driven | S3], Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """The task ends with its error, and not before the other has come; then nothing is left."""
    url, store_kind, left = place
    held = Held(store_kind, monkeypatch)
    store, out = store_of(url), OutFile(url, len(DATA), ())
    part = store.part(located(url), "0123456789")
    unfinished = store.create(out, part, overwrite=True)

    def meet(number: int) -> None:
        held.until(lambda: held.begun >= 2)
        if number == 1:
            raise OSError(5, "no more", url)
        held.until(lambda: held.flying == 1)  # behind the one that failed

    held.meet = meet
    with closing(OPEN[kind](store, part)) as sink, pytest.raises(OSError, match="no more"):
        sink.write(DATA, 0)
    assert held.flying == 0
    assert held.begun == FLYING
    unfinished.discard()
    assert left() == []
