"""Parts of an upload that two tasks share, which the client puts together."""

from __future__ import annotations

from collections.abc import Callable
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

WriteSafetensors = Callable[..., Path]
OUT = "memory://b/o.safetensors"


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
