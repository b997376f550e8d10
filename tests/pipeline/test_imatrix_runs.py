"""With `--imatrix` any executor, and a run that is gone on with, gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imatrix_file import write_imatrix
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.run import Outcome

LAYERS, ROWS, COLUMNS = 6, 256, 1024
SHARD = "100kB"
SLOW = (
    "import sys, time, anamnesis.writers.gguf as g\n"
    "write = g.BlockSlot.write\n"
    "def slow(*a): time.sleep(0.05); write(*a)\n"
    "g.BlockSlot.write = slow\n"
    "from anamnesis.cli.main import main; main(sys.argv[1:])"
)


def contents(out: Path) -> dict[str, bytes]:
    """The splits of an output folder, by their names."""
    return {path.name: path.read_bytes() for path in out.glob("*.gguf")}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model of matrices and of a stack of them, and an importance matrix of all."""
    rng = np.random.default_rng(8)
    names = [f"blk.{n}.ffn_up.weight" for n in range(LAYERS)]
    model = {name: rng.standard_normal((ROWS, COLUMNS), np.float32) for name in names}
    sums = {name: rng.random(COLUMNS, np.float32) for name in names}
    stack = "blk.0.ffn_up_exps.weight"
    model[stack] = rng.standard_normal((3, 85, COLUMNS), np.float32)
    sums[stack] = rng.random((3, COLUMNS), np.float32)
    source = tmp_path / "m.safetensors"
    save_file(model, source)
    return source, write_imatrix(tmp_path / "i.dat", sums)


def convert(source: Path, out: Path, encode: str, **settings: Any) -> Outcome:
    return anamnesis.convert(source, out, to="gguf", names="stored", encode=encode, **settings)


@pytest.mark.parametrize("encode", ["q4-k", "iq2-xs"])
def test_any_executor_gives_the_same_bytes(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: str
) -> None:
    monkeypatch.setattr("anamnesis.pipeline.plan.LEAST_TASK_BYTES", 100_000)
    source, file = files
    found = set()
    for executor in ("serial", "threads", "distributed"):
        out = tmp_path / f"{executor}.gguf"
        convert(source, out, encode, imatrix=file, executor=executor)
        found.add(out.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("encode", ["q4-k", "iq2-xs"])
def test_killed_and_run_again(files: tuple[Path, Path], tmp_path: Path, encode: str) -> None:
    """Shards that are not finished are made again with the weights, and not under others."""
    source, file = files
    out, whole = tmp_path / "out", tmp_path / "whole"
    settings = {"max_shard_size": SHARD, "threads": 1, "imatrix": file}
    first = convert(source, whole, encode, **settings)
    command = ["convert", source, "--to", "gguf", "--names", "stored", "--encode", encode]
    command += ["--imatrix", file, "-o", out, "--max-shard-size", SHARD, "--threads", "1"]
    arguments = [sys.executable, "-c", SLOW, *map(str, command)]
    child = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    while len(contents(out)) < 2:
        assert child.poll() is None, child.stderr
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    kept = file.read_bytes()
    write_imatrix(
        file,
        {f"blk.{n}.ffn_up.weight": np.ones(COLUMNS) for n in range(LAYERS)}
        | {"blk.0.ffn_up_exps.weight": np.ones((3, COLUMNS))},
    )
    with pytest.raises(UsageError, match="is of another job"):
        convert(source, out, encode, **settings)
    file.write_bytes(kept)
    again = convert(source, out, encode, **settings)
    assert 0 < again.resumed < len(first.files)
    assert len(contents(whole)) == len(first.files)
    assert contents(out) == contents(whole)
