"""What may lie where this program has its own files: links, FIFOs, devices, gigabytes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis import owned
from anamnesis.errors import AnamnesisError, LimitError, SecurityError, UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job
from anamnesis.writers import lock as lock_module
from anamnesis.writers.lock import OutputLock

Bounded = Callable[[], AbstractContextManager[None]]
VICTIM = b"alias ls=ls\n"
JOURNAL, LOCK, MANIFEST = (
    ".out.safetensors.anamnesis.journal",
    ".out.safetensors.anamnesis.lock",
    "out.safetensors.anamnesis.json",
)


@pytest.fixture
def source(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    values = np.arange(64, dtype=np.float32).tobytes()
    return write_safetensors(tmp_path / "in.safetensors", {"w": ("F32", (8, 8), values)})


def link(path: Path, victim: Path) -> type[AnamnesisError]:
    path.symlink_to(victim)
    return SecurityError


def dangling(path: Path, victim: Path) -> type[AnamnesisError]:
    path.symlink_to(victim.with_name("not-there"))
    return SecurityError


def hard_link(path: Path, victim: Path) -> type[AnamnesisError]:
    os.link(victim, path)
    return SecurityError


def fifo(path: Path, victim: Path) -> type[AnamnesisError]:
    os.mkfifo(path)
    return SecurityError


def zeros(path: Path, victim: Path) -> type[AnamnesisError]:
    path.symlink_to("/dev/zero")
    return SecurityError


def folder(path: Path, victim: Path) -> type[AnamnesisError]:
    path.mkdir()
    return SecurityError


def listening(path: Path, victim: Path) -> type[AnamnesisError]:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(path))
    return SecurityError


def huge(path: Path, victim: Path) -> type[AnamnesisError]:
    with path.open("wb") as file:
        file.truncate(3 << 30)
    return LimitError


PLANTED = [link, dangling, hard_link, fifo, zeros, folder, listening, huge]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", [JOURNAL, LOCK])
def test_a_run_touches_none_of_it(
    name: str, plant: Callable[..., Any], source: Path, tmp_path: Path, bounded: Bounded
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(VICTIM)
    os.chdir(tmp_path)
    there = tmp_path / "o"
    there.mkdir()
    error = plant(there / name, victim)
    job = job_from(inputs=[str(source)], output={"path": str(there / "out.safetensors")})
    with bounded(), pytest.raises(error) as caught:
        run_job(job, resume=True)
    assert name in str(caught.value)
    assert set(os.listdir(there)) <= {name}
    assert victim.read_bytes() == VICTIM
    assert not victim.with_name("not-there").exists()


@pytest.mark.parametrize(
    "plant", [p for p in PLANTED if p is not hard_link], ids=lambda p: p.__name__
)
def test_verify_reads_none_of_it(
    plant: Callable[..., Any], source: Path, tmp_path: Path, bounded: Bounded
) -> None:
    os.chdir(tmp_path)
    out = tmp_path / "out.safetensors"
    anamnesis.remember(source, out, executor="serial")
    (tmp_path / MANIFEST).rename(tmp_path / "kept.json")
    error = plant(tmp_path / MANIFEST, tmp_path / "kept.json")
    with bounded(), pytest.raises(error, match=r"anamnesis\.json"):
        anamnesis.verify(out)


@pytest.fixture
def another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders of this test belong to somebody else."""
    uid = os.geteuid()
    monkeypatch.setattr(owned.os, "geteuid", lambda: uid + 1)


def test_another_s_journal_in_a_shared_folder_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, real = os.geteuid(), os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        return os.stat_result([*status[:4], uid + 1, *status[5:10]])

    (tmp_path / "journal").write_bytes(VICTIM)
    monkeypatch.setattr(owned.os, "fstat", fstat)
    with pytest.raises(SecurityError, match=f"belongs to user {uid + 1}"):
        owned.open_owned(tmp_path / "journal", os.O_RDONLY, 100)
    os.close(owned.open_owned(tmp_path / "journal", os.O_RDONLY, 100, strangers=True))


def test_where_everything_belongs_to_one_user_that_is_no_obstacle(
    another_user: None, tmp_path: Path
) -> None:
    (tmp_path / "journal").write_bytes(VICTIM)
    assert owned.read_owned(tmp_path / "journal", 100) == VICTIM


def test_a_link_put_in_place_of_the_part_is_not_written_through(
    tmp_path: Path,
) -> None:
    victim, part = tmp_path / "victim", tmp_path / ".out.12345678.part"
    victim.write_bytes(VICTIM)
    part.symlink_to(victim)
    with pytest.raises(SecurityError, match="is a link"):
        owned.open_part(part)
    with pytest.raises(FileExistsError):
        owned.create(part)


# ---- file systems that lack something


def test_without_flock_the_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)
    notes: list[str] = []
    out = tmp_path / "out"
    with OutputLock(out, notes.append):
        assert "no flock" in notes[0]
        with pytest.raises(UsageError, match=f"process {os.getpid()} on .*remove"):
            OutputLock(out).__enter__()
    assert not list(tmp_path.iterdir())
    with OutputLock(out):
        pass


_STRANGE = """
import errno, os, stat, sys
def fsync(fd, real=os.fsync):
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    real(fd)
os.fsync = fsync
os.statvfs = lambda path, real=os.statvfs: os.statvfs_result([4096, 4096, *[0] * 8])
from anamnesis.cli.main import main
main()
"""


def test_folders_without_sync_and_room_that_is_unknown(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-c", _STRANGE, "remember", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "does not say how much room" in done.stderr
    anamnesis.verify(out)
    assert json.loads((tmp_path / MANIFEST).read_text())["files"]
