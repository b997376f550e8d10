"""Tasks that outlive the file they write to leave nothing in a store, whenever it ends.

The task of a client that was killed goes on, and so does the one that Dask does again for a worker
that was lost. Here every order of its requests and of those of whoever ends the file is gone
through: the one stops before each of its requests, and the other before each of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from contextvars import ContextVar
from itertools import count
from typing import Any

import numpy as np
import pytest
from buckets import KEYS, Bucket, forget_clients

from anamnesis.limits import KiB
from anamnesis.readers import retry
from anamnesis.writers import objects, outbox, safetensors, upload
from anamnesis.writers.base import OutFile
from anamnesis.writers.stores import Store, Stored, Unfinished, located, store_of

HEAD, FOOT = b"head of the file", b"and its foot"
DATA = np.random.default_rng(1).bytes(200 * KiB)
WHOLE = HEAD + DATA + FOOT
RUN = "0123456789"
_here: ContextVar[Any] = ContextVar("actor", default=None)  # of the threads of a task, too


class Actor(threading.Thread):
    """Makes requests when it may, one after the other."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._what = what
        self._may, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self.ended, self.error = False, ""
        self.start()

    def run(self) -> None:
        _here.set(self)
        try:
            self._what()
        except FileNotFoundError as error:
            self.error = str(error)
        self.ended = True
        self._stands.release()

    def request(self) -> None:
        """It stands before one; in its own thread."""
        self._stands.release()
        assert self._may.acquire(timeout=60)

    def go(self, requests: int) -> bool:
        """Let it make so many, and stop before the next; False when there were not as many."""
        self._stands.acquire()
        for _ in range(requests):
            if self.ended:
                break
            self._may.release()
            self._stands.acquire()
        self._stands.release()
        return not self.ended


class File:
    """An unfinished file of 200 KiB at a URL, of which one task writes all but the ends."""

    def __init__(self, url: str) -> None:
        final = located(url)
        self.out = OutFile(url, len(WHOLE), ((0, HEAD), (len(HEAD + DATA), FOOT)))
        self.store: Store = store_of(final)
        self.part = self.store.part(final, RUN)
        self.unfinished: Unfinished = self.store.create(self.out, self.part, overwrite=True)

    def task(self, data: bytes = DATA) -> Stored | None:
        with closing(self.store.open_part(self.part)) as sink:
            sink.write(data, len(HEAD))
            stored = sink.finish(False)
            sink.keep("task-0", lambda: b"receipt")
            return stored

    def other(self) -> None:
        """A task that begins there too and ends before: another budget cuts tasks so."""
        self.task(DATA[: 70 * KiB])

    def pack(self) -> None:
        with closing(self.store.open_pack(self.part)) as sink:
            sink.write(WHOLE, 0)
            sink.end(len(WHOLE))
            sink.keep("task-0", lambda: b"receipt")

    def discard(self) -> None:
        self.unfinished.discard()

    def commit(self) -> None:
        self.unfinished.commit(safetensors)

    def resumed(self) -> None:
        """The run after the one that was killed: it goes on with the upload, cut in its own way."""
        self.unfinished = self.store.create(self.out, self.part, overwrite=True)
        self.unfinished.receive(self.task())
        self.commit()

    def begun(self) -> None:
        """A run after the one that ended: it begins an upload."""
        self.discard()
        self.resumed()


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three whole parts, and two that are not."""
    monkeypatch.setattr(upload, "PART_BYTES", 50 * KiB)
    monkeypatch.setattr(upload, "part_bytes", lambda nbytes: 50 * KiB)


@pytest.mark.parametrize(
    ("late", "end"),
    [
        ("task", "discard"),
        ("task", "commit"),
        ("other", "resumed"),
        ("other", "begun"),
        ("pack", "discard"),
        ("pack", "commit"),
    ],
)
def test_every_order_of_requests(
    memory: Any, monkeypatch: pytest.MonkeyPatch, late: str, end: str
) -> None:
    """The task makes some, then the end some, then the task the others, then the end."""
    ask = retry._in_time

    def asked(request: Any, seconds: float) -> Any:
        actor = _here.get()
        if actor is not None:
            actor.request()
        return ask(request, seconds)

    monkeypatch.setattr(retry, "_in_time", asked)
    monkeypatch.setattr(objects, "AT_A_TIME", 1)  # of which one is an actor
    monkeypatch.setattr(outbox, "FLYING", 1)  # so that there is an order
    orders, refused = 0, 0
    for first in count():
        for then in count():
            memory.store.clear()
            file = File("memory://b/out")
            if end == "commit":
                file.unfinished.receive(file.task())
            task = Actor(getattr(file, late))
            ended = task.go(first)
            ender = Actor(getattr(file, end))
            more = ender.go(then)
            assert not task.go(1000)
            assert not ender.go(1000)
            orders += 1
            refused += task.error != ""
            assert not ender.error, (first, then)
            found = {name: data.getvalue() for name, data in memory.store.items()}
            assert found == ({} if end == "discard" else {"/b/out": WHOLE}), (first, then)
            if not more:
                break
        if not ended:
            break
    assert orders > 50
    assert 0 < refused < orders


def test_a_bucket_keeps_nothing_of_a_late_task(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(key, value)
    forget_clients()
    bucket = Bucket(endpoint, "late")
    file = File("s3://late/out")
    sink = file.store.open_part(file.part)
    sink.write(DATA[: 40 * KiB], len(HEAD))
    file.discard()
    sink.finish(False)
    with closing(sink), pytest.raises(FileNotFoundError, match="its run has ended"):
        sink.keep("task-0", lambda: b"receipt")
    assert bucket.objects() == []
    assert bucket.uploads() == []
    forget_clients()
