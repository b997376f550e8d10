"""Files of a store that are completed a few at a time, and what is left when one of them fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import files_in_memory

import anamnesis
from anamnesis.limits import MiB
from anamnesis.pipeline.writing import COMMITS
from anamnesis.readers import retry
from anamnesis.writers import upload
from anamnesis.writers.objects import Driven

WriteSafetensors = Callable[..., Path]
FILES = COMMITS + 2


@pytest.fixture
def model(tmp_path: Path, write_safetensors: WriteSafetensors) -> Path:
    rng = np.random.default_rng(8)
    arrays = {f"t{n}": rng.integers(0, 256, (1003, 1003), np.uint8) for n in range(FILES)}
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {n: ("U8", a.shape, a.tobytes()) for n, a in arrays.items()})
    return path


class Completing:
    """Stands in for `Driven.complete`; holds each until as many are there as may be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "none") -> None:
        self.changed, self.begun, self.flying, self.most = threading.Condition(), 0, 0, 0
        self.failing = failing
        complete = Driven.complete

        def held(store: Driven, url: str, *rest: Any, **more: Any) -> None:
            with self.changed:
                self.begun, self.flying = self.begun + 1, self.flying + 1
                self.most = max(self.most, self.flying)
                self.changed.notify_all()
                assert self.changed.wait_for(lambda: self.begun >= COMMITS, 120)
            try:
                if self.failing in url:
                    raise OSError(5, "no more", url)
                complete(store, url, *rest, **more)
            finally:
                with self.changed:
                    self.flying -= 1

        monkeypatch.setattr(Driven, "complete", held)
        monkeypatch.setattr(upload, "PART_BYTES", MiB)
        monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)


def convert(model: Path, out: str | Path) -> None:
    anamnesis.convert(model, out, to="safetensors", threads=1, max_shard_size="1MB")


def test_files_are_completed_a_few_at_a_time(
    memory: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are in the journal, and then in the manifest."""
    completing = Completing(monkeypatch)
    convert(model, "memory://b/out")
    assert completing.most == COMMITS
    convert(model, tmp_path / "out")
    found = files_in_memory("/b/out/")
    assert len([name for name in found if name.startswith("model-")]) == FILES
    assert found == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    anamnesis.verify("memory://b/out")


def test_a_file_that_fails_beside_others(
    memory: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are whole; the next run keeps them, and makes the one."""
    name = "model-00002-of"
    completing = Completing(monkeypatch, name)
    with pytest.raises(OSError, match="no more"):
        convert(model, "memory://b/out")
    found = files_in_memory("/b/out/")
    assert len(found) == FILES - 1
    assert not any(name in path or "part" in path for path in memory.store)
    completing.failing = "none"
    convert(model, "memory://b/out")
    anamnesis.verify("memory://b/out")
