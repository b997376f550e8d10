"""Parts of an upload that two tasks share, which the client puts together, a few at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import files_in_memory

import anamnesis
from anamnesis.errors import IntegrityError
from anamnesis.limits import MiB
from anamnesis.readers import retry
from anamnesis.writers import upload
from anamnesis.writers.objects import Driven

WriteSafetensors = Callable[..., Path]
OUT = "memory://b/o.safetensors"
JOINED = 4  # fewer than the file has parts of two tasks


@pytest.fixture
def model(tmp_path: Path, write_safetensors: WriteSafetensors) -> Path:
    """40 MB, in tasks of 8 MiB whose ends lie inside of parts."""
    rng = np.random.default_rng(8)
    arrays = {f"t{n:02}": rng.integers(0, 256, (2003, 1003), np.uint8) for n in range(20)}
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {n: ("U8", a.shape, a.tobytes()) for n, a in arrays.items()})
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", MiB)
    monkeypatch.setattr(upload, "JOINED", JOINED)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)


def convert(model: Path, out: str | Path) -> None:
    anamnesis.convert(model, out, to="safetensors", threads=1)


def is_scrap(path: str, start: int | None) -> bool:
    return ".part/" in path and start is not None


@pytest.mark.parametrize("times", [1, 1 << 30])
def test_an_answer_that_is_short_is_no_part(
    memory: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """It is asked for again, and if that does not help nothing is written: never zeros."""
    left = [times]
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        data: bytes = real(self, path, start=start, end=end, **more)
        short = is_scrap(path, start) and left[0] > 0
        left[0] -= short
        return data[:-1] if short else data

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    if times > 1:
        with pytest.raises(IntegrityError, match="bytes came"):
            convert(model, OUT)
        assert not memory.store
        return
    convert(model, OUT)
    convert(model, tmp_path / "o.safetensors")
    assert files_in_memory("/b/")["o.safetensors"] == (tmp_path / "o.safetensors").read_bytes()
    assert left[0] == 0


def test_only_what_belongs_to_a_part_is_read(
    memory: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of a scrap twice, though it has bytes of several parts."""
    asked: list[tuple[str, int, int]] = []
    read = Driven.read

    def counted(self: Driven, url: str, start: int, stop: int) -> bytes:
        asked.append((url, start, stop))
        return read(self, url, start, stop)

    monkeypatch.setattr(Driven, "read", counted)
    convert(model, OUT)
    scraps = sorted(found for found in asked if ".part/" in found[0])
    assert len(scraps) > len({url for url, _, _ in scraps}) > 2
    for (one, _, stop), (other, start, _) in pairwise(scraps):
        assert one != other or stop <= start


class Joining:
    """Stands in for `Driven.part`, and counts the joins that are on their way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
        self.flying, self.most, self.numbers = 0, 0, list[int]()
        self.changed, self.wanted = threading.Condition(), wanted
        send = Driven.part

        def part(driven: Driven, url: str, upload: str, number: int, data: Any) -> str:
            if not threading.current_thread().name.startswith("amn-join"):
                return send(driven, url, upload, number, data)
            with self.changed:
                self.flying += 1
                self.numbers.append(number)
                self.most = max(self.most, self.flying)
                self.changed.notify_all()
            try:
                self.wait(len(self.numbers) == 1)
                return send(driven, url, upload, number, data)
            finally:
                with self.changed:
                    self.flying -= 1

        monkeypatch.setattr(Driven, "part", part)

    def wait(self, first: bool) -> None:
        """Until as many are on their way as there may be; then shortly for one too many."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.most >= self.wanted, 120)
            self.changed.wait_for(lambda: self.most > self.wanted, 0.1)


@pytest.mark.parametrize(("part", "most"), [(MiB, JOINED), (4 * MiB, 1)])
def test_a_few_at_a_time(
    memory: Any, model: Path, monkeypatch: pytest.MonkeyPatch, part: int, most: int
) -> None:
    """Of large parts fewer, as each is held whole."""
    monkeypatch.setattr(upload, "part_bytes", lambda nbytes: part)
    joining = Joining(monkeypatch, most)
    convert(model, OUT)
    assert joining.most == most


def test_nothing_is_on_its_way_when_an_upload_is_aborted(
    memory: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a part that failed the others end first, and nothing is left."""
    joining, flying_then = Joining(monkeypatch, JOINED), list[int]()
    wait, abort = joining.wait, Driven.abort

    def fails(first: bool) -> None:
        wait(first)
        if first:
            raise OSError(5, "no more", OUT)
        time.sleep(0.3)

    def aborted(self: Driven, url: str, upload: str) -> None:
        flying_then.append(joining.flying)
        abort(self, url, upload)

    monkeypatch.setattr(joining, "wait", fails)
    monkeypatch.setattr(Driven, "abort", aborted)
    with pytest.raises(OSError, match="no more"):
        convert(model, OUT)
    assert flying_then == [0]
    assert not memory.store
