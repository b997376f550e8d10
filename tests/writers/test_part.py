"""Output files are complete under their final name, or absent (rows W03 to W10)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from part_files import MODULE, VALUES, files, fill, plan

from anamnesis.errors import UsageError
from anamnesis.writers import safetensors
from anamnesis.writers.base import OutFile, write_all
from anamnesis.writers.part import PartFile, check_space, remove_leftovers, write_small


def make(path: Path, *, overwrite: bool = False) -> None:
    out, slot = plan(path)
    part = PartFile(out, overwrite=overwrite)
    fill(part, slot)
    part.commit(MODULE)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_a_committed_file_is_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    make(path)
    assert files(tmp_path) == ["model.safetensors"]
    assert path.read_bytes().endswith(VALUES.tobytes())


def test_until_the_commit_the_final_name_is_absent(tmp_path: Path) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    (name,) = files(tmp_path)
    assert name.startswith(".model.safetensors.")
    assert name.endswith(".part")
    assert part.part.stat().st_size == out.nbytes
    assert part.part.read_bytes().startswith(out.fixed[0][1])
    fill(part, slot)
    assert not part.final.exists()
    part.commit(MODULE)
    assert files(tmp_path) == ["model.safetensors"]


def test_discard_removes_the_part_and_may_be_repeated(tmp_path: Path) -> None:
    part = PartFile(plan(tmp_path / "model.safetensors")[0])
    part.discard()
    part.discard()
    assert files(tmp_path) == []


def test_discard_after_a_commit_leaves_the_file(tmp_path: Path) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    fill(part, slot)
    part.commit(MODULE)
    part.discard()
    assert files(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_w09_the_umask_decides_the_mode(
    tmp_path: Path, umask: Callable[[int], int], mask: int, mode: int
) -> None:
    umask(mask)
    make(tmp_path / "model.safetensors")
    write_small(tmp_path / "index.json", b"{}")
    for name in files(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_w08_an_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"model\.safetensors: exists already; pass --overwrite"):
        PartFile(plan(path)[0])
    assert path.read_bytes() == b"mine"
    assert files(tmp_path) == ["model.safetensors"]


def test_w08_a_dangling_symlink_exists_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        PartFile(plan(path)[0])
    assert files(tmp_path) == ["model.safetensors"]


def test_w08_an_output_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    part = PartFile(out)
    fill(part, slot)
    part.final.write_bytes(b"another run's")
    with pytest.raises(UsageError, match="exists already"):
        part.commit(MODULE)
    assert part.final.read_bytes() == b"another run's"
    assert files(tmp_path) == ["model.safetensors"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        PartFile(plan(path)[0], overwrite=True)
    assert files(tmp_path) == ["model.safetensors"]


def test_overwrite_keeps_the_old_file_until_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    out, slot = plan(path)
    part = PartFile(out, overwrite=True)
    fill(part, slot)
    assert path.read_bytes() == b"old"
    part.commit(MODULE)
    assert path.read_bytes().endswith(VALUES.tobytes())


def test_overwrite_keeps_the_old_file_when_the_new_one_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    PartFile(plan(path)[0], overwrite=True).discard()
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_w07_an_input_behind_a_link_keeps_its_bytes(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    source = tmp_path / "input.safetensors"
    source.write_bytes(b"input" * 100)
    path = tmp_path / "model.safetensors"
    link(source, path)
    with source.open("rb") as reading:
        make(path, overwrite=True)
        assert reading.read() == b"input" * 100
    assert source.read_bytes() == b"input" * 100
    assert not path.is_symlink()
    assert path.read_bytes().endswith(VALUES.tobytes())


def test_w07_an_input_that_is_replaced_can_be_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"input" * 100)
    with path.open("rb") as reading:
        make(path, overwrite=True)
        assert reading.read() == b"input" * 100


def test_w03_files_larger_than_the_disk_are_refused_at_once(tmp_path: Path) -> None:
    """Together: sparse files of half the disk each could all be created."""
    status = os.statvfs(tmp_path)
    half = status.f_bavail * status.f_frsize // 2
    check_space([OutFile(str(tmp_path / "x.safetensors"), half // 2, ())])
    with pytest.raises(OSError, match=r"bytes, .* are free") as caught:
        check_space([OutFile(str(tmp_path / f"{n}.safetensors"), half, ()) for n in range(3)])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)


def test_leftovers_of_these_files_alone_are_removed(tmp_path: Path) -> None:
    kept = ["x.safetensors", ".x.safetensors.0123456.part", ".y.arrow.01234567.part", ".x.part"]
    left = [".x.safetensors.0123abcd.part", ".index.json.01234567.part"]
    for name in (*kept, *left):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers([tmp_path / "x.safetensors", tmp_path / "index.json"])
    assert files(tmp_path) == sorted(kept)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:7], at))
    make(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes().endswith(VALUES.tobytes())


def test_write_all_takes_nothing_and_any_dtype(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    write_all(fd, np.empty(0, np.float32), 5)
    write_all(fd, b"", 5)
    write_all(fd, np.array([1.5, -2.0], np.float16), 0)
    assert os.pread(fd, 9, 0) == np.array([1.5, -2.0], np.float16).tobytes()
    os.close(fd)


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of syncs and renames, as the program asks for them."""
    calls: list[str] = []
    fsync, rename, check = os.fsync, os.rename, safetensors.check

    def spy_fsync(fd: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        fsync(fd)

    def spy_rename(source: Any, target: Any, **kwargs: Any) -> None:
        calls.append("rename")
        rename(source, target, **kwargs)

    def spy_check(path: Path, expected: OutFile) -> None:
        calls.append("check")
        check(path, expected)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    monkeypatch.setattr(safetensors, "check", spy_check)
    return calls


def test_w06_sync_check_rename_sync_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_calls(monkeypatch)
    make(tmp_path / "model.safetensors")
    assert calls == ["fsync file", "check", "rename", "fsync folder"]


def test_w06_small_files_take_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch)
    write_small(tmp_path / "index.json", b"{}")
    assert calls == ["fsync file", "rename", "fsync folder"]
    assert (tmp_path / "index.json").read_bytes() == b"{}"
    assert files(tmp_path) == ["index.json"]


def test_two_parts_of_one_output_do_not_share_a_file(tmp_path: Path) -> None:
    out, slot = plan(tmp_path / "model.safetensors")
    first, second = PartFile(out), PartFile(out)
    assert first.part != second.part
    fill(second, slot)
    second.commit(MODULE)
    first.discard()
    assert files(tmp_path) == ["model.safetensors"]
    assert second.final.read_bytes().endswith(VALUES.tobytes())
