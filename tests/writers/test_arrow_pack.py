"""Compressed Arrow files: the plain file's table, made in bounded memory, whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.ipc
import pytest
from arrow_files import write_in_any_order

import anamnesis
from anamnesis.errors import IntegrityError, UsageError
from anamnesis.pipeline.config import job_from, schema
from anamnesis.pipeline.executors import EXECUTORS
from anamnesis.pipeline.jobs import run_job
from anamnesis.writers import arrow, arrow_pack, arrow_slot, safetensors
from anamnesis.writers.base import Item, Storage
from anamnesis.writers.part import PartFile, check_space

CODECS = ("lz4", "zstd")
SHAPES: dict[str, tuple[int, ...]] = {
    "noise": (300, 40),
    "zeros": (500, 64),
    "long": (30_000,),
    "one": (),
    "none": (0, 4),
    "no columns": (6, 0),
    "narrow": (5000, 1),
}


def contents() -> tuple[list[Item], list[Any]]:
    rng = np.random.default_rng(0)
    items, values = [], []
    for number, (name, shape) in enumerate(SHAPES.items()):
        dtype, kind = (("BF16", np.uint16), ("F32", np.float32))[number % 2]
        items.append(Item(name, shape, dtype, int(np.prod(shape, dtype=int))))
        raw = rng.integers(0, 256, items[-1].elems * np.dtype(kind).itemsize, np.uint8)
        values.append(np.zeros_like(raw) if name == "zeros" else raw)
    return items, values


def write(path: Path, codec: str, windows: int = 1) -> Path:
    items, values = contents()
    layout = arrow.layout(items, path, 1, Storage(codec))
    part = PartFile(layout.files[0], overwrite=True)
    write_in_any_order(part, layout, items, values, windows)
    part.commit(arrow)
    return path


def table(path: Path) -> pa.Table:
    found = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    found.validate(full=True)
    return found


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
@pytest.mark.parametrize("codec", CODECS)
def test_the_same_table_in_fewer_bytes(
    codec: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_slot, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(arrow_pack, "_CHUNK_BYTES", chunk)
    plain = write(tmp_path / "plain.arrow", "none")
    packed = write(tmp_path / "packed.arrow", codec)
    assert sorted(os.listdir(tmp_path)) == ["packed.arrow", "plain.arrow"]
    assert packed.stat().st_size < 0.8 * plain.stat().st_size
    assert table(packed).equals(table(plain), check_metadata=True)
    with pa.ipc.open_file(packed) as ours, pa.ipc.open_file(plain) as theirs:
        assert ours.num_record_batches == theirs.num_record_batches


@pytest.mark.parametrize("codec", CODECS)
def test_the_file_is_also_a_stream(codec: str, tmp_path: Path) -> None:
    path = write(tmp_path / "packed.arrow", codec)
    data = path.read_bytes()
    end = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    stream = pa.ipc.open_stream(data[8:end]).read_all()
    assert stream.equals(table(path), check_metadata=True)


@pytest.mark.parametrize("codec", CODECS)
def test_the_order_of_windows_does_not_matter(codec: str, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.arrow", codec).read_bytes()
    assert write(tmp_path / "b.arrow", codec, windows=20).read_bytes() == whole


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_are_read_back_without_a_flag(codec: str, tmp_path: Path) -> None:
    """They pack to less than a thousandth, and more than that times a file's bytes is refused."""
    zeros = np.zeros((2048, 4096), np.float32)
    np.savez(tmp_path / "m.npz", w=zeros, v=np.ones(3, np.float32))
    out = tmp_path / "o.arrow"
    anamnesis.remember(tmp_path / "m.npz", out, compression=codec)
    assert out.stat().st_size < zeros.nbytes // 100
    model = anamnesis.open_model(out)
    assert list(model) == ["w", "v"]
    assert not model["w"].to_numpy().any()
    data = out.read_bytes()
    with pa.ipc.open_file(data) as file, pa.ipc.open_stream(data[8:]) as stream:
        assert file.read_all().equals(stream.read_all())


def test_noise_is_stored_as_it_is(tmp_path: Path) -> None:
    """A packed buffer that is longer than the plain one would be a loss; -1 stands before it."""
    plain = write(tmp_path / "plain.arrow", "none")
    noise = contents()[1][0].tobytes()
    assert noise in plain.read_bytes()
    packed = write(tmp_path / "packed.arrow", "lz4").read_bytes()
    at = packed.index(noise)
    assert packed[at - 8 : at] == b"\xff" * 8


def test_polars_and_duckdb_read_what_is_packed(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    paths = [write(tmp_path / f"{codec}.arrow", codec) for codec in ("none", *CODECS)]
    frames = [pl.read_ipc(path) for path in paths]
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    query = "select tensor, count(*), sum(row), sum(list_sum(values_f32)) from w group by all"
    answers = []
    for path in paths:
        connection = duckdb.connect()
        connection.register("w", pa.dataset.dataset(path, format="arrow"))
        answers.append(sorted(map(str, connection.execute(query).fetchall())))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == len(SHAPES) - 1  # one has no rows


def test_memory_does_not_grow_with_a_row(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    elems = 96 << 20
    layout = arrow.layout(
        [Item("long", (elems,), "U8", elems)], tmp_path / "x.arrow", 1, Storage("zstd")
    )
    part = PartFile(layout.files[0])
    with part.part.open("r+b") as file:
        layout.places[0][1].write(file.fileno(), 0, b"\1")
    Path("/proc/self/clear_refs").write_text("5")
    before = int(status.read_text().split("VmHWM:")[1].split()[0])
    part.commit(arrow)
    after = int(status.read_text().split("VmHWM:")[1].split()[0])
    assert after - before < 24 << 10
    assert (tmp_path / "x.arrow").stat().st_size < 110_000


@pytest.mark.parametrize("name", ["fsync", "pwrite", "preadv", "rename"])
def test_an_error_while_packing_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "x.arrow"
    final.write_text("mine")
    real = arrow_pack.pack

    def broken(*arguments: Any) -> None:
        def fail(*arguments: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os if name != "rename" else Path, name, fail)
        real(*arguments)

    monkeypatch.setattr(arrow_pack, "pack", broken)
    with pytest.raises(OSError, match="No space"):
        write(final, "zstd")
    assert os.listdir(tmp_path) == ["x.arrow"]
    assert final.read_text() == "mine"


def job(source: Path, out: Path, **settings: Any) -> Any:
    output = {"path": str(out), "format": "arrow", **settings}
    return job_from(inputs=[str(source)], output=output, run={"executor": "serial"})


def test_every_executor_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    written = set()
    for name in EXECUTORS:
        out = tmp_path / f"{name}.arrow"
        settings: dict[str, Any] = {"executor": name, "threads": 1 if name == "serial" else 2}
        anamnesis.remember(sample, out, to="arrow", compression="zstd", **settings)
        written.add(out.read_bytes())
        assert anamnesis.verify(out, against=sample)["pieces_decoded"] == 11
    assert len(written) == 1


def test_a_run_that_was_killed_while_packing_goes_on(sample: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    settings = {"compression": "zstd", "max_shard_size": 3_000_000}
    run_job(job(sample, wanted, **settings))
    out = tmp_path / "out"
    text = (
        f"inputs: [{sample}]\n"
        f"output: {{path: {out}, format: arrow, compression: zstd, max_shard_size: 3000000}}\n"
    )
    (tmp_path / "job.yaml").write_text(text)
    script = (
        "import sys, os, signal\n"
        "from anamnesis.writers import arrow_pack as p\n"
        "pack, n = p.pack, []\n"
        "def dies(*arguments):\n"
        "    pack(*arguments)\n"
        "    n.append(1)\n"
        "    if len(n) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.pack = dies\n"
        "from anamnesis.cli.main import main; main(['run', sys.argv[1]])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "job.yaml")]
    done = subprocess.run(command, capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = sorted(os.listdir(out))
    assert len([n for n in left if n.endswith(".arrow")]) == 1
    assert len([n for n in left if n.endswith(".part")]) >= 1
    (outcome,) = run_job(job(sample, out, **settings), resume=True).outcomes
    assert outcome.resumed == 1
    assert sorted(os.listdir(out)) == sorted(os.listdir(wanted))
    for name in os.listdir(wanted):
        assert (out / name).read_bytes() == (wanted / name).read_bytes()


def test_a_damaged_part_is_found_and_made_again(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {"compression": "lz4", "max_shard_size": 3_000_000}
    run_job(job(sample, out, **settings))
    assert anamnesis.verify(out)["files"] == 4
    path = out / "part-00002-of-00004.arrow"
    whole = path.read_bytes()
    for at in (len(whole) // 2, 200):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 64,)) + whole[at + 1 :])
        with pytest.raises((IntegrityError, anamnesis.errors.FormatError)):
            anamnesis.verify(out)
    (outcome,) = run_job(job(sample, out, **settings), resume=True).outcomes
    assert outcome.resumed == 3
    assert path.read_bytes() == whole


def test_packing_stops_when_asked(sample: Path, tmp_path: Path) -> None:
    """A file of many GB takes minutes; a person does not wait for it."""
    script = (
        "import sys, os, signal, threading, time\n"
        "from anamnesis.writers import arrow_pack as p\n"
        "copy = p._Packer._copy\n"
        "def slow(*arguments):\n"
        "    time.sleep(0.5)\n"
        "    copy(*arguments)\n"
        "p._Packer._copy = slow\n"
        "def ask():\n"
        "    while len([n for n in os.listdir(sys.argv[1]) if n.endswith('.part')]) < 2:\n"
        "        time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "from anamnesis.cli.main import main\n"
        "main(['remember', sys.argv[2], '--to', 'arrow', '--compression', 'lz4', '-o',\n"
        "      sys.argv[1] + '/x.arrow'])"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(sample)]
    done = subprocess.run(command, capture_output=True, timeout=240)
    assert done.returncode == 130, done.stderr
    assert not [n for n in os.listdir(tmp_path) if n.endswith((".part", ".arrow"))]


def test_room_for_the_plain_file_beside_the_packed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, _ = contents()
    layouts = [arrow.layout(items, tmp_path / "x.arrow", 1, Storage(c)) for c in ("none", "zstd")]
    free = layouts[0].nbytes * 3 // 2
    status = os.statvfs(tmp_path)
    monkeypatch.setattr(
        os, "statvfs", lambda path: Status(free // status.f_frsize, status.f_frsize)
    )
    check_space(layouts[0].files)
    with pytest.raises(OSError, match=f"needs {2 * layouts[1].nbytes:,} bytes"):
        check_space(layouts[1].files)


class Status(NamedTuple):
    f_bavail: int
    f_frsize: int
    f_blocks: int = 1


def test_another_compression_is_another_job(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    run_job(job(sample, out, compression="lz4"))
    with pytest.raises(UsageError, match="--overwrite"):
        run_job(job(sample, out, compression="zstd"), resume=True)
    with pytest.raises(UsageError, match="--overwrite"):
        run_job(job(sample, out), resume=True)
    assert run_job(job(sample, out, compression="lz4"), resume=True).outcomes[0].resumed == 1


def test_compression_is_for_arrow(
    sample: Path, tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = amn("remember", sample, "-o", tmp_path / "x.safetensors", "--compression", "lz4")
    assert done.returncode == 2
    assert "output.compression: lz4 is for arrow and parquet" in done.stderr
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="compression zstd: safetensors stores"):
        safetensors.layout([], tmp_path / "x.safetensors", 1, Storage("zstd"))
    done = amn(
        "remember", sample, "--to", "arrow", "-o", tmp_path / "x.arrow", "--compression", "lz5"
    )
    assert done.returncode == 2
    found = schema()["$defs"]["Output"]["properties"]
    assert found["compression"]["anyOf"][0]["enum"] == ["lz4", "none", "zstd"]
    assert found["bf16"]["default"] is None
    with pytest.raises(UsageError, match=r"output\.compression: found .gzip.; allowed: none"):
        job(sample, tmp_path / "x.arrow", compression="gzip")
