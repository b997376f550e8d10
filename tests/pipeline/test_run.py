"""A run leaves complete files under their final names, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import anamnesis
from anamnesis.errors import IntegrityError, LimitError, UsageError

Amn = Callable[..., subprocess.CompletedProcess[str]]


def everything_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_dense_tensors_keep_their_dtype_and_bits(fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(fp8_model, out)
    with safe_open(out, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert dtypes == {
        "a.weight": "BF16",
        "b.weight": "BF16",
        "c.weight": "BF16",
        "norm.weight": "F32",
        "ids": "I64",
        "empty": "BF16",
    }
    before = anamnesis.open_model(fp8_model)
    after = anamnesis.open_model(out)
    for name in dtypes:
        left, right = before[name].to_numpy(), after[name].to_numpy()
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize(("dtype", "kind"), [("f32", np.float32), ("f16", np.float16)])
def test_an_asked_dtype_holds_for_every_float(
    fp8_model: Path, tmp_path: Path, dtype: str, kind: type
) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(fp8_model, out, dtype=dtype)
    got = load_file(out)
    assert got["a.weight"].dtype == got["norm.weight"].dtype == kind
    assert got["ids"].dtype == np.int64


def test_shards_and_their_index(fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "folder"
    anamnesis.remember(fp8_model, out, max_shard_size="16MB")
    names = [n for n in everything_below(out) if n.startswith("model-")]
    assert names == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert len(anamnesis.open_model(out)) == 6
    assert anamnesis.verify(out) == {"files": 3, "tensors": 6, "bytes": 30_438_024 + 0}


def test_a_flipped_byte_is_found_and_named(fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(fp8_model, out)
    data = bytearray(out.read_bytes())
    data[-1_000_001] ^= 1
    out.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"tensor '[abc]\.weight'"):
        anamnesis.verify(out)


@pytest.mark.parametrize("to", ["safetensors", "arrow"])
def test_an_output_is_compared_with_its_input(fp8_model: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / f"out.{to}"
    anamnesis.remember(fp8_model, out, to=to, include=["[abc].*", "norm*"])
    counts = anamnesis.verify(out, against=fp8_model)
    assert counts["pieces_decoded"] == counts["pieces"] >= 4
    assert anamnesis.verify(out, against=fp8_model, sample=0.01)["pieces_decoded"] == 1
    data = bytearray(fp8_model.read_bytes())
    data[-1_000_000] ^= 1
    fp8_model.write_bytes(data)
    with pytest.raises(IntegrityError, match="differ from"):
        anamnesis.verify(out, against=fp8_model)


def test_an_existing_output_is_kept_unless_asked(fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        anamnesis.remember(fp8_model, out)
    assert out.read_text() == "mine"
    anamnesis.remember(fp8_model, out, overwrite=True)
    assert anamnesis.verify(out)


def test_the_input_is_never_the_output(fp8_model: Path, tmp_path: Path) -> None:
    before = fp8_model.read_bytes()
    link = tmp_path / "link.safetensors"
    link.hardlink_to(fp8_model)
    for out in (fp8_model, link):
        with pytest.raises(UsageError, match="is the input"):
            anamnesis.remember(fp8_model, out, overwrite=True)
    assert fp8_model.read_bytes() == before


def test_a_budget_that_cannot_hold_one_window_is_refused(fp8_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=r"weight: one window needs .*--memory") as caught:
        anamnesis.remember(fp8_model, tmp_path / "out" / "x.safetensors", memory="160MiB")
    assert caught.value.limit == "run.memory"
    assert not (tmp_path / "out").exists()


def test_failure_leaves_nothing_behind(fp8_model: Path, tmp_path: Path, amn: Amn) -> None:
    before = everything_below(tmp_path)
    fp8_model.write_bytes(fp8_model.read_bytes()[:-1])
    done = amn("remember", fp8_model, "-o", tmp_path / "new" / "out.safetensors")
    assert done.returncode == 3
    assert done.stderr.startswith("error: FormatError: ")
    assert done.stderr.count("\n") == 1
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 130), ("SIGKILL", -9)])
def test_stopped_in_the_middle(fp8_model: Path, tmp_path: Path, name: str, code: int) -> None:
    """Slow windows down in the child, and stop it when the unfinished file is there."""
    out = tmp_path / "folder" / "out.safetensors"
    script = (
        "import sys, time, anamnesis.writers.safetensors as s\n"
        "write = s.RawSlot.write\n"
        "def slow(*a): time.sleep(0.05); write(*a)\n"
        "s.RawSlot.write = slow\n"
        "from anamnesis.cli.main import main; main(sys.argv[1:])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, "remember", str(fp8_model), "-o", str(out)],
        stderr=subprocess.PIPE,
    )
    while not (out.parent.is_dir() and list(out.parent.glob(".*.part"))):
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(child.pid, getattr(signal, name))
    _, errors = child.communicate()
    assert child.returncode == code
    assert not out.exists()
    if name != "SIGKILL":
        assert not out.parent.exists()
        assert b"error: interrupted" in errors
        assert b"Traceback" not in errors
