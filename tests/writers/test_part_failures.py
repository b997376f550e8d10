"""Rows W03 to W10: calls that fail while a file is made, and what they leave."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from part_files import MODULE, files, fill, plan

from anamnesis.errors import FormatError, IntegrityError
from anamnesis.writers import part as part_module
from anamnesis.writers import safetensors
from anamnesis.writers.base import OutFile
from anamnesis.writers.part import PartFile, write_small


def failing(code: int) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
def test_w03_w05_a_failure_while_reserving_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            PartFile(plan(path)[0], overwrite=True)
    assert caught.value.errno == code
    assert files(tmp_path) == ["model.safetensors"]
    assert path.read_bytes() == b"old"


def test_w05_the_file_size_limit_is_an_oserror(tmp_path: Path) -> None:
    """In a process of its own, with the signal at its default as Python sets it."""
    script = (
        "import resource, sys\n"
        "from anamnesis.writers.base import OutFile\n"
        "from anamnesis.writers.part import PartFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    PartFile(OutFile(sys.argv[1], 1 << 20, ()))\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path / "x.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != -signal.SIGXFSZ
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr
    assert files(tmp_path) == []


def test_w04_a_failed_sync_fails_the_file_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "sync")

    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    fill(part, slot)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="sync"):
        part.commit(MODULE)
    assert len(calls) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize("call", ["rename", "fsync", "pwrite"])
def test_w04_a_small_file_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "index.json").write_bytes(b"old")
    monkeypatch.setattr(os, call, failing(errno.EIO))
    with pytest.raises(OSError, match="Errno"):
        write_small(tmp_path / "index.json", b"{}")
    assert (tmp_path / "index.json").read_bytes() == b"old"
    assert files(tmp_path) == ["index.json"]


def test_a_failed_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    fill(part, slot)
    monkeypatch.setattr(os, "rename", failing(errno.EIO))
    with pytest.raises(OSError, match="Errno"):
        part.commit(MODULE)
    assert files(tmp_path) == []


def test_a_failed_sync_of_the_folder_is_told_and_the_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    fill(part, slot)
    monkeypatch.setattr(part_module, "sync_folder", failing(errno.EIO))
    with pytest.raises(OSError, match="Errno"):
        part.commit(MODULE)
    assert files(tmp_path) == ["model.safetensors"]
    safetensors.check(part.final, out)


def test_a_failed_close_still_removes_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems tell of failed writes when a file is closed."""
    close = os.close
    part = PartFile(plan(tmp_path / "model.safetensors")[0])

    def fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "close")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(OSError, match="close"):
            part.commit(MODULE)
    assert files(tmp_path) == []


def test_w10_a_file_that_fails_its_check_is_removed(tmp_path: Path) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    fill(part, slot)
    with part.part.open("r+b") as file:
        file.seek(12)
        file.write(b"#")
    with pytest.raises(IntegrityError):
        part.commit(MODULE)
    assert files(tmp_path) == []


def test_w10_a_check_of_any_kind_may_refuse(tmp_path: Path) -> None:
    def refuse(path: Path, expected: OutFile) -> None:
        raise FormatError("no")

    part = PartFile(plan(tmp_path / "model.safetensors")[0])
    module: Any = SimpleNamespace(layout=safetensors.layout, check=refuse)
    with pytest.raises(FormatError):
        part.commit(module)
    assert files(tmp_path) == []
