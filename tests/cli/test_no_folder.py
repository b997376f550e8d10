"""Outputs in places where no folder can be made, and paths that mean two things."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import anamnesis
from anamnesis.analytics.table_files import check_target
from anamnesis.cli.failure import exit_code, line
from anamnesis.errors import LimitError, UsageError

Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plain(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    return write_safetensors(tmp_path / "plain.safetensors", {"a": ("F32", (2,), bytes(8))})


@pytest.mark.parametrize("out", ["at", "at/below", "at/w.safetensors", "at/b/w.arrow"])
@pytest.mark.parametrize("link", [True, False])
def test_a_file_or_a_link_to_nothing_is_no_folder(
    amn: Amn, plain: Path, tmp_path: Path, out: str, link: bool
) -> None:
    at = tmp_path / "at"
    at.symlink_to(tmp_path / "nowhere") if link else at.write_text("mine")
    done = amn("remember", plain, "-o", tmp_path / out)
    assert done.returncode == UsageError.exit_code
    assert f"error: usage: {tmp_path / out}: " in done.stderr
    what = f"a link to {tmp_path}/nowhere, where nothing is" if link else "a file"
    assert f"is {what}, and no folder; choose another output" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["at", "plain.safetensors"]
    assert link or at.read_text() == "mine"


def test_a_link_to_a_folder_is_that_folder(plain: Path, tmp_path: Path) -> None:
    for name in ("folder", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / f"to-{name}").symlink_to(tmp_path / name)
    anamnesis.remember(plain, tmp_path / "to-folder")
    assert (tmp_path / "folder" / "model.safetensors").is_file()
    anamnesis.remember(plain, tmp_path / "to-other" / "w.safetensors")
    assert (tmp_path / "other" / "w.safetensors").is_file()


@pytest.mark.parametrize("suffix", [".safetensors", ".arrow", ".gguf"])
def test_a_name_of_a_file_with_a_slash_behind_it(plain: Path, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UsageError, match="ends in a slash, as folders do"):
        anamnesis.remember(plain, f"{tmp_path}/w{suffix}/")
    assert [p.name for p in tmp_path.iterdir()] == ["plain.safetensors"]


def test_a_folder_with_a_slash_behind_it(plain: Path, tmp_path: Path) -> None:
    anamnesis.remember(plain, f"{tmp_path}/out/")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("mode", [0, os.ST_RDONLY])
def test_a_table_is_refused_a_folder_that_takes_no_files_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Root may write to any folder but those of a mount for reading, which a test cannot make."""
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=mode))
    said = "Read-only file system" if mode else "Permission denied"
    with pytest.raises(OSError, match=f"{said}: nothing can be made in this folder"):
        check_target(tmp_path / "stats.csv", overwrite=False)


def test_a_library_that_could_not_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As llvmlite says it, whose advice is about another cause."""
    error = OSError("Could not find/load shared object file 'libllvmlite.so' from x. This could …")
    assert exit_code(error) == 1
    monkeypatch.setattr("anamnesis.cli.failure._is_limited", lambda: True)
    assert exit_code(error) == LimitError.exit_code
    assert line(error).startswith("LimitError: out of memory, by a limit on the address space")
    assert "This could" not in line(error)
    assert exit_code(OSError(2, "No such file", "x.so")) == 1
