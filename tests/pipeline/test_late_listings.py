"""Stores whose listings are behind: what is not shown yet, and what is gone since it was shown."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import IntegrityError
from anamnesis.limits import KiB
from anamnesis.writers import objects, safetensors, upload
from anamnesis.writers.base import OutFile
from anamnesis.writers.stores import located, store_of

DATA = np.random.default_rng(1).bytes(200 * KiB)
URL = "memory://late/out"


@pytest.fixture(autouse=True)
def parts(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "part_bytes", lambda nbytes: 50 * KiB)


def test_a_receipt_that_is_gone_since_it_was_listed(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late task takes its own away again; the run goes on with the others."""
    store = store_of(URL)
    part = store.part(located(URL), "0123456789")
    store.create(OutFile(URL, len(DATA), ()), part, overwrite=True)
    for key, receipt in (("task-0", b"first"), ("task-1", b"second")):
        with closing(store.open_part(part)) as sink:
            sink.keep(key, lambda data=receipt: data)
    names = objects.Driven.names

    def listed(self: objects.Driven, folder: str) -> list[str]:
        found = names(self, folder)
        self.remove([f"{folder}/{name}" for name in found if name.startswith("task-0")])
        return found

    monkeypatch.setattr(objects.Driven, "names", listed)
    assert store.found(part) == [b"second"]


def test_a_file_whose_parts_are_not_listed_is_not_completed(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(URL)
    part = store.part(located(URL), "0123456789")
    unfinished = store.create(OutFile(URL, len(DATA), ()), part, overwrite=True)
    sink = store.open_part(part)
    sink.write(DATA, 0)
    unfinished.receive(sink.finish(False))
    names = objects.Driven.names
    monkeypatch.setattr(
        objects.Driven,
        "names",
        lambda self, folder: [n for n in names(self, folder) if not n.endswith("0004")],
    )
    with pytest.raises(IntegrityError, match=r"part 4 of .*again"):
        unfinished.commit(safetensors)
    assert "/late/out" not in memory.store


def test_an_input_that_is_gone_since_it_was_listed(
    memory: Any, fp8_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "/m/model-00002-of-00002.safetensors"
    memory.pipe_file(name, fp8_model.read_bytes())
    memory.pipe_file(name.replace("-00002-of", "-00001-of"), fp8_model.read_bytes())
    glob = type(memory).glob

    def listed(self: Any, path: str, **more: Any) -> Any:
        found = glob(self, path, **more)
        self.store.pop(name, None)
        return found

    monkeypatch.setattr(type(memory), "glob", listed)
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        anamnesis.remember("memory://m/*.safetensors", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
