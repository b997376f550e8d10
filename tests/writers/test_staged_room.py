"""`run.staging` on a disk that has less room than a file of the output needs."""

from __future__ import annotations

import errno
from pathlib import Path, PurePath

import pytest

from anamnesis.writers.base import OutFile
from anamnesis.writers.staged import Staged
from anamnesis.writers.stores import store_of

FILES = [OutFile(f"memory://out/{n}.safetensors", nbytes, ()) for n, nbytes in enumerate((70, 100))]


@pytest.mark.parametrize(("free", "silent"), [(100, False), (None, True)])
def test_room_for_one_file_is_enough(
    free: int | None, silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anamnesis.writers.staged.free_bytes", lambda folder: free)
    out = PurePath("memory://out")
    staged = Staged(str(tmp_path), out, store_of(out))
    assert staged.check_space(FILES) == [str(tmp_path)] * silent
    staged.close()
    assert not list(tmp_path.iterdir())


def test_less_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anamnesis.writers.staged.free_bytes", lambda folder: 99)
    out = PurePath("memory://out")
    with pytest.raises(OSError, match="needs 100 bytes there before it is sent, 99 are") as raised:
        Staged(str(tmp_path), out, store_of(out)).check_space(FILES)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
