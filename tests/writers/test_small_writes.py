"""Small writes that follow one another, of which a file may get a million."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anamnesis.writers.disk import Disk

SIZE = 200_000


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(0, SIZE)), st.integers(0, 9_000)), max_size=40
    )
)
def test_any_writes_are_there_at_the_end(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int | None, int]]
) -> None:
    """Each at a place of its own, or behind the one before; its buffer is used again."""
    part = tmp_path_factory.mktemp("small") / ".x.part"
    part.touch()
    expected, at = bytearray(SIZE + 360_000), 0
    sink = Disk().open_part(part)
    for number, (place, nbytes) in enumerate(writes):
        at = at if place is None else place
        data = bytearray([number + 1]) * nbytes
        expected[at : at + nbytes] = data
        sink.write(data, at)
        data[:] = bytes(nbytes)
        at += nbytes
    sink.finish(durable=False)
    sink.close()
    found = part.read_bytes()
    assert found == expected[: len(found)]
    assert not any(expected[len(found) :])


def test_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / ".x.part"
    part.touch()
    calls: list[int] = []
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: calls.append(at) or pwrite(fd, data, at))
    sink = Disk().open_part(part)
    for at in range(0, SIZE, 16):
        sink.write(bytes(16), at)
    sink.finish(durable=False)
    sink.close()
    assert len(calls) == 1 + SIZE // (1 << 16)
    assert part.stat().st_size == SIZE
