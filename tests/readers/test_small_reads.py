"""Small reads that follow one another, of which a file may be read by a million."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anamnesis.errors import IntegrityError
from anamnesis.readers.source import LocalFile

DATA = bytes(range(251)) * 800  # 200,800 bytes


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "data"
    path.write_bytes(DATA)
    return path


READS = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, len(DATA) - 1)), st.integers(0, 6_000)),
    max_size=40,
)


@given(READS)
def test_any_reads_give_what_is_there(path: Path, reads: list[tuple[int | None, int]]) -> None:
    """Each from a place of its own, or from the end of the one before."""
    at = 0
    with LocalFile(path) as file:
        for place, nbytes in reads:
            at = at if place is None else place
            nbytes = min(nbytes, len(DATA) - at)
            assert file.read(at, nbytes) == DATA[at : at + nbytes]
            at += nbytes


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each call that reads began."""
    calls: list[int] = []
    preadv = os.preadv

    def spy(fd: int, parts: Sequence[Any], offset: int) -> int:
        calls.append(offset)
        got: int = preadv(fd, parts, offset)
        return got

    monkeypatch.setattr("anamnesis.readers.source.os.preadv", spy)
    return calls


def test_few_calls(path: Path, calls: list[int]) -> None:
    with LocalFile(path) as file:
        for at in range(0, len(DATA), 16):
            file.read_into(at, bytearray(16))
    assert len(calls) == 2 + len(DATA) // (1 << 16)  # the first alone


@pytest.mark.parametrize("gap", [0, 16])
def test_few_calls_of_layers_with_scales(path: Path, calls: list[int], gap: int) -> None:
    """Codes and scales in turn, from two places that each go on: further apart, or in one."""
    half = len(DATA) // 2
    with LocalFile(path) as file:
        for at in range(0, half - 16, 16 + gap):
            scale = at + 16 if gap else half + at
            assert file.read(scale, 16) + file.read(at, 16) == (
                DATA[scale : scale + 16] + DATA[at : at + 16]
            )
    assert len(calls) < 20


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with LocalFile(path) as file:
        os.truncate(path, 40)
        assert file.read(0, 16) + file.read(16, 16) == DATA[:32]
        with pytest.raises(IntegrityError, match="ended at byte 40 while 8 more were expected"):
            file.read(32, 16)


def test_behind_the_end_a_second_time(path: Path) -> None:
    """Who reads on where a read has failed is told the same."""
    with LocalFile(path) as file:
        for at in (len(DATA) - 5, len(DATA) + 5):
            with pytest.raises(IntegrityError):
                file.read_into(at, bytearray(10))
        for _ in range(2):
            file.read_into(len(DATA) + 15, bytearray(0))
