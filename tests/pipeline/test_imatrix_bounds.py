"""Importance matrices that are not there, and ones with absurdly many counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imatrix_file import write_imatrix

import anamnesis
from anamnesis.errors import LimitError, UsageError
from anamnesis.limits import Limits
from anamnesis.readers import imatrix_gguf
from anamnesis.readers.imatrix import open_imatrix


def test_one_that_is_not_there(tmp_path: Path, write_safetensors: Callable[..., Path]) -> None:
    values = np.arange(64, dtype=np.float32).tobytes()
    source = write_safetensors(tmp_path / "in.safetensors", {"a": ("F32", (8, 8), values)})
    anamnesis.remember(source, tmp_path / "out")
    with pytest.raises(UsageError, match=r"no\.gguf: found no such file; output\.imatrix"):
        anamnesis.verify(tmp_path / "out", against=source, imatrix=tmp_path / "no.gguf")


def test_counts_of_all_tensors_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of 8 counts, where 23 are allowed, or memory for as many; nothing was read for them."""
    sums = {f"blk.{n}.ffn_up_exps.weight": np.ones((8, 4), np.float32) for n in range(3)}
    path = write_imatrix(tmp_path / "i.gguf", sums)
    assert len(open_imatrix(str(path), Limits()).entries) == 3
    read: list[str] = []
    monkeypatch.setattr(imatrix_gguf, "_divisors", lambda path, base, *rest: read.append(base))
    monkeypatch.setattr(imatrix_gguf, "_COUNT_BYTES", 10_000)  # more than records of its tensors
    with pytest.raises(LimitError, match="24 counts: takes 240,000 bytes of memory"):
        open_imatrix(str(path), Limits(record_bytes=239_999))
    monkeypatch.setattr(imatrix_gguf, "COUNTS", 23)
    with pytest.raises(LimitError, match="counts of all tensors: needs 24, the fixed limit is 23"):
        open_imatrix(str(path), Limits())
    assert not read
