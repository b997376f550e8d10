"""Objects by fsspec alone: conditions where drivers have them, the store's clock, its errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFile

from anamnesis.errors import UsageError
from anamnesis.writers import stores
from anamnesis.writers.objects import Driven

URL, FOLDER = "memory://b/o", "memory://b/.o.part"


def sent(objects: Driven) -> tuple[str, list[tuple[int, str]]]:
    upload = objects.begin(URL, FOLDER)
    return upload, [(1, objects.part(URL, upload, 1, b"ours"))]


def test_an_object_that_another_made_meanwhile_is_kept(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is told that it must be new: to look before is not enough."""
    objects = Driven(URL)
    upload, parts = sent(objects)

    def look(self: Driven, url: str) -> bool:
        memory.pipe_file("/b/o", b"another's")
        return False

    monkeypatch.setattr(Driven, "_exists", look)
    with pytest.raises(FileExistsError, match="by another meanwhile: 'memory://b/o'"):
        objects.complete(URL, upload, parts, new=True)
    assert memory.cat_file("/b/o") == b"another's"
    objects.complete(URL, upload, parts, new=False)
    assert memory.cat_file("/b/o") == b"ours"


class RefusedError(Exception):
    status = 403


@pytest.mark.parametrize(
    ("raised", "known"),
    [(RefusedError("no"), PermissionError), (FileExistsError(), FileExistsError)],
)
def test_what_a_writer_says_at_its_end(
    memory: Any, monkeypatch: pytest.MonkeyPatch, raised: Exception, known: type[OSError]
) -> None:
    objects = Driven(URL)
    upload, parts = sent(objects)

    def close(self: MemoryFile) -> None:
        raise raised

    monkeypatch.setattr(MemoryFile, "close", close)
    with pytest.raises(known, match="memory://b/o"):
        objects.complete(URL, upload, parts, new=True)


def test_a_lock_is_as_old_as_the_store_says(memory: Any) -> None:
    """Whatever the clock of this machine is; another run is refused while it is renewed."""
    path = stores.located(URL)
    with stores.store_of(path).lock(path):
        with pytest.raises(UsageError, match="another run is writing it"):
            stores.store_of(path).lock(path).__enter__()
        (name,) = memory.store
        memory.store[name].modified -= timedelta(minutes=5)
        assert 299 < Driven(URL).age(f"memory:/{name}") < 400
        assert list(memory.store) == [name]
