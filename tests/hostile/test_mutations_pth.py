"""Every truncation, and a sample of all one-byte substitutions, of tiny checkpoints.

A changed byte of the pickle in an archive is told by its CRC-32; to get behind that, the pickle
is also changed before it is packed. Whatever the bytes say, opening gives a model or one of this
package's errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pth_bytes
import pytest

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.pth import list_globals
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

B = pth_bytes


def top(view: Any) -> bytes:
    """Two tensors by the short way of old files, a scalar and a nested dict."""
    store = B.storage(elems=2, cls="ByteStorage", view=view)
    parts = (store, B.value(0), B.value((2,)), B.value((1,)))
    tensor = B.call(B.global_("torch._utils", "_rebuild_tensor"), *parts)
    return bytes(B.dict_({"w": tensor + b"q\1", "n": B.dict_({"v": b"h\1"}), "e": B.value(7)}))


def archive(pickle: bytes) -> bytes:
    return bytes(B.archive([("a/data.pkl", pickle), ("a/data/0", b"\x01\x02")]))


def archive_seed() -> bytes:
    return archive(B.pickled(top(...)))


def legacy_seed() -> bytes:
    return bytes(B.legacy(top(None), [("0", 2, b"\x01\x02")], system=b"\x80\x02}."))


def run(path: Path, inputs: Iterator[bytes], read: Callable[[str], Any]) -> tuple[int, list[str]]:
    """How many were read, and the errors of the others."""
    accepted, messages = 0, []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for mutant in inputs:
            os.ftruncate(descriptor, len(mutant))
            os.pwrite(descriptor, mutant, 0)
            try:
                read(str(path))
            except AnamnesisError as error:
                messages.append(str(error))
            else:
                accepted += 1
    finally:
        os.close(descriptor)
    return accepted, messages


def resolved(path: str) -> None:
    resolve(Ledger(open_container(path, Limits())))


@pytest.mark.parametrize("make", [archive_seed, legacy_seed])
def test_no_foreign_exception(make: Callable[[], bytes], mutants: Any, tmp_path: Path) -> None:
    path, seed = tmp_path / "mutant.pth", make()
    assert run(path, iter([seed]), resolved) == (1, [])
    accepted, messages = run(path, mutants.truncations(seed), resolved)
    assert accepted == 0
    assert len(messages) == len(seed)
    accepted, more = run(path, mutants.substitutions(seed), resolved)
    assert accepted > 10
    assert len(more) > len(seed)
    assert all(str(path) in m and "\n" not in m and len(m) < 2_000 for m in messages + more)


def test_no_foreign_exception_behind_the_checksum(mutants: Any, tmp_path: Path) -> None:
    path, seed = tmp_path / "mutant.pth", B.pickled(top(...))
    accepted, messages = run(path, map(archive, mutants.truncations(seed)), resolved)
    assert accepted == 0
    accepted, more = run(path, map(archive, mutants.substitutions(seed)), resolved)
    assert accepted > 10
    assert all(str(path) in m and "\n" not in m and len(m) < 2_000 for m in messages + more)


def test_globals_are_always_listed(mutants: Any, tmp_path: Path) -> None:
    """The report takes any legacy stream: what is broken is a problem of it, not an error."""
    path, seed = tmp_path / "mutant.pth", legacy_seed()

    def listed(name: str) -> None:
        list_globals(name, Limits())

    start = len(B.pickled(b"N"))
    accepted, messages = run(path, mutants.truncations(seed), listed)
    assert len(messages) < start
    pickles = B.pickled(top(...))
    accepted, messages = run(path, map(archive, mutants.substitutions(pickles)), listed)
    assert messages == []
    assert accepted > len(pickles)
