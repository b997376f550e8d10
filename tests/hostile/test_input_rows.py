"""Inputs that change, fail or are no files while they are read (rows D01-D05)."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, LimitError
from anamnesis.limits import Limits
from anamnesis.readers.model import load_model
from anamnesis.readers.source import LocalFile

MIB = 1 << 20
TIB = 1 << 40
Amn = Callable[..., subprocess.CompletedProcess[str]]
Bounded = Callable[[], AbstractContextManager[None]]
Write = Callable[..., Path]


@pytest.fixture
def path(tmp_path: Path, write_safetensors: Write) -> Path:
    """8 MiB of F32."""
    return model(tmp_path / "in.safetensors", write_safetensors, 1)


def model(path: Path, write: Write, value: float) -> Path:
    values = np.full((2048, 1024), value, "<f4")
    return write(path, {"w": ("F32", values.shape, values.tobytes())})


def at_window(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something just before a task reads its window `number` (from 0)."""
    read_into = LocalFile.read_into
    count = 0

    def read(self: LocalFile, offset: int, buffer: Any) -> None:
        nonlocal count
        if memoryview(buffer).nbytes >= MIB // 4:
            if count == number:
                act()
            count += 1
        read_into(self, offset, buffer)

    monkeypatch.setattr(LocalFile, "read_into", read)


def nothing_left(folder: Path) -> bool:
    return sorted(p.name for p in folder.iterdir()) == ["in.safetensors"]


# --- D01


@pytest.mark.parametrize("executor", ["serial", "threads"])
@pytest.mark.parametrize("size", [0, 100, 4 * MIB, 8 * MIB])
def test_d01_truncated_while_it_is_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, executor: str
) -> None:
    at_window(monkeypatch, 2, lambda: os.truncate(path, size))
    threads = 1 if executor == "serial" else 2
    with pytest.raises(IntegrityError, match=r"in\.safetensors"):
        anamnesis.remember(path, tmp_path / "out.safetensors", executor=executor, threads=threads)
    assert nothing_left(tmp_path)


def test_d01_truncated_between_header_and_values(path: Path) -> None:
    opened = anamnesis.open_model(path)
    os.truncate(path, 5 * MIB)
    with pytest.raises(IntegrityError):
        opened["w"].to_numpy()
    with pytest.raises(IntegrityError):
        list(opened["w"].batches())


def test_d01_in_a_process_of_its_own(path: Path, tmp_path: Path, amn: Amn) -> None:
    """No signal: the process lives to say so."""
    code = (
        "import os, sys; from anamnesis.cli.main import main;"
        "from anamnesis.readers.source import LocalFile as F; read = F.read_into\n"
        "def cut(self, offset, buffer):\n"
        "    if memoryview(buffer).nbytes > 100_000: os.truncate(self.path, 4096)\n"
        "    read(self, offset, buffer)\n"
        "F.read_into = cut; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "remember", path, "-o", tmp_path / "o.safetensors"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == IntegrityError.exit_code, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: IntegrityError: ")
    assert nothing_left(tmp_path)


# --- D02


def test_d02_overwritten_in_place(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite() -> None:
        with path.open("r+b") as file:
            file.seek(-MIB, os.SEEK_END)
            file.write(bytes(MIB))
        os.utime(path, ns=(1, 1))  # clocks may be coarse

    at_window(monkeypatch, 2, overwrite)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        anamnesis.remember(path, tmp_path / "out.safetensors")
    assert nothing_left(tmp_path)


def test_d02_replaced_by_another_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_safetensors: Write
) -> None:
    """What is open stays what it was; the output is all of the old file."""
    before = load_model(str(path)).files
    other = model(tmp_path / "other", write_safetensors, 2)
    at_window(monkeypatch, 2, lambda: other.rename(path))
    anamnesis.remember(path, tmp_path / "out.safetensors", threads=1)
    values = anamnesis.open_model(tmp_path / "out.safetensors")["w"].to_numpy()
    assert (values == 1).all()
    assert load_model(str(path)).files != before


def test_d02_replaced_between_tasks(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_safetensors: Write
) -> None:
    """A task that opens the new file notices; no output mixes them."""
    monkeypatch.setattr("anamnesis.pipeline.plan.TASK_BYTES", MIB)
    other = model(tmp_path / "other", write_safetensors, 2)
    at_window(monkeypatch, 2, lambda: other.rename(path))
    with pytest.raises(IntegrityError, match="changed"):
        anamnesis.remember(path, tmp_path / "out.safetensors", threads=1, executor="serial")
    assert nothing_left(tmp_path)


def test_d02_replaced_between_header_and_values(path: Path, write_safetensors: Write) -> None:
    opened = anamnesis.open_model(path)
    path.unlink()
    model(path, write_safetensors, 2)
    with pytest.raises(IntegrityError, match="changed"):
        opened["w"].to_numpy()


# --- D03


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_d03_a_read_that_fails(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    preadv = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset > 3 * MIB:
            raise OSError(code, os.strerror(code))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        anamnesis.remember(path, tmp_path / "out.safetensors")
    assert caught.value.errno == code
    assert caught.value.filename == str(path)
    assert "at byte 4," in str(caught.value)
    assert nothing_left(tmp_path)


def test_d03_short_reads(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(fd, [buffers[0][: max(1, len(buffers[0]) // 3)]], offset)

    monkeypatch.setattr(os, "preadv", short)
    anamnesis.remember(path, tmp_path / "out.safetensors")
    assert anamnesis.verify(tmp_path / "out.safetensors")["bytes"] == 8 * MIB


# --- D04


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_d04_permission_denied(path: Path, amn: Amn, what: str) -> None:
    denied = path if what == "file" else path.parent
    denied.chmod(0)
    try:
        done = amn("inspect", path)
    finally:
        denied.chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.startswith("error: PermissionError: ")


@pytest.mark.parametrize("command", ["inspect", "remember"])
@pytest.mark.parametrize("what", ["/dev/zero", "/dev/null", "fifo.gguf", "folder.gguf", "/proc"])
def test_d04_what_is_no_file(tmp_path: Path, amn: Amn, what: str, command: str) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "folder.gguf").mkdir()
    before = sorted(tmp_path.iterdir())
    more = ("-o", tmp_path / "out.safetensors") if command == "remember" else ()
    done = amn(command, tmp_path / what, *more, timeout=120)
    assert done.returncode == FormatError.exit_code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: FormatError: ")
    assert sorted(tmp_path.iterdir()) == before


def test_d04_in_no_time(tmp_path: Path, bounded: Bounded) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    for path in (tmp_path / "fifo.gguf", Path("/dev/zero"), tmp_path):
        with bounded(), pytest.raises(FormatError):
            load_model(str(path))


# --- D05


def sparse(path: Path, size: int, tensors: int = 1, dtype: str = "F32") -> Path:
    """A valid header over data that no disk holds."""
    itemsize = {"F32": 4, "I8": 1}[dtype]
    each = size // tensors // itemsize
    header = {
        f"t{i}": {
            "dtype": dtype,
            "shape": [each // 1024, 1024],
            "data_offsets": [i * each * itemsize, (i + 1) * each * itemsize],
        }
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + tensors * each * itemsize)
        except OSError:
            pytest.skip("no file of that size here")
    return path


@pytest.mark.parametrize("tensors", [1, 1024])
def test_d05_a_sparse_file_of_1_tib(
    tmp_path: Path, bounded: Bounded, amn: Amn, tensors: int
) -> None:
    path = sparse(tmp_path / "in.safetensors", TIB, tensors)
    with bounded():
        assert anamnesis.inspect(path).stored_bytes == TIB
    with bounded(), pytest.raises(OSError, match=r"the output needs .* are free in its folder"):
        anamnesis.remember(path, tmp_path / "out" / "out.safetensors")
    with bounded(), pytest.raises(LimitError, match="max_total_bytes"):
        anamnesis.remember(path, tmp_path / "out", limits=Limits(max_total_bytes=1 << 30))
    done = amn("remember", path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "error: OSError: " in done.stderr
    assert nothing_left(tmp_path)


def test_d05_values_of_a_sparse_tensor(tmp_path: Path, bounded: Bounded) -> None:
    path = sparse(tmp_path / "in.safetensors", TIB)
    tensor = anamnesis.open_model(path)["t0"]
    with bounded(), pytest.raises(LimitError, match="max_single_alloc") as caught:
        tensor.to_numpy()
    assert (caught.value.limit, caught.value.need) == ("max_single_alloc", TIB)


def test_d05_a_sparse_file_of_4_eib(bounded: Bounded) -> None:
    """Cut into tasks it would fill the memory: it is refused before."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("needs a file system without a limit on sizes")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        path = sparse(Path(name) / "in.safetensors", 1 << 62, 4)
        with bounded(), pytest.raises(LimitError, match="max_total_bytes"):
            anamnesis.remember(path, Path(name) / "out")
        assert nothing_left(Path(name))
