"""Whole runs that permute and transpose: executors, kills, comparisons, the open model.

What is expected are `gguf`'s own codes and numbers, moved by numpy as llama.cpp's converter does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import finish
from safetensors.numpy import load_file, save_file
from slow_writes import SLOW

import anamnesis
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.executors import EXECUTORS

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType
KINDS = (Q.Q8_0, Q.Q4_0, Q.F16, Q.Q5_1, Q.F32, Q.Q4_1, Q.Q5_0)
LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 7, 64, 4, 2, 96
Made = tuple[Path, dict[str, Any]]


def heads_joined(weight: Any, heads: int) -> Any:
    """The way back of `LlamaModel.permute`."""
    split = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def llama(layer: int) -> dict[str, tuple[tuple[int, int], str, Callable[[Any], Any]]]:
    prefix = f"model.layers.{layer}."
    return {
        "attn_q": ((64, 64), f"{prefix}self_attn.q_proj", lambda w: heads_joined(w, HEADS)),
        "attn_k": ((32, 64), f"{prefix}self_attn.k_proj", lambda w: heads_joined(w, KV_HEADS)),
        "ffn_up": ((96, 64), f"{prefix}mlp.up_proj", lambda w: w),
    }


def gpt2(layer: int) -> dict[str, tuple[tuple[int, int], str, Callable[[Any], Any]]]:
    prefix = f"transformer.h.{layer}."
    return {
        "attn_qkv": ((192, 64), f"{prefix}attn.c_attn", lambda w: w.T),
        "ffn_up": ((96, 64), f"{prefix}mlp.c_fc", lambda w: w.T),
        "ffn_down": ((64, 96), f"{prefix}mlp.c_proj", lambda w: w.T),
    }


MODELS = {"gpt2": gpt2, "llama": llama}


@pytest.fixture(params=sorted(MODELS))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """A GGUF of several types, and what a folder of float32 has to hold."""
    name: str = request.param
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), name)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    rng = np.random.default_rng(len(name))
    expected = {}
    for layer in range(LAYERS):
        for number, (tensor, (shape, stored_as, back)) in enumerate(MODELS[name](layer).items()):
            kind = KINDS[(layer + number) % len(KINDS)]
            codes = gguf.quantize(rng.standard_normal(shape, dtype=np.float32), kind)
            writer.add_tensor(f"blk.{layer}.{tensor}.weight", codes, raw_dtype=kind)
            numbers = back(gguf.dequantize(codes, kind).reshape(shape))
            expected[f"{stored_as}.weight"] = np.ascontiguousarray(numbers, np.float32)
    finish(writer)
    return path, expected


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tasks a tensor, several windows a task."""
    monkeypatch.setattr(planning, "TASK_BYTES", 4096)
    monkeypatch.setattr(planning, "LEAST_TASK_BYTES", 4096)
    monkeypatch.setattr(planning, "WINDOW_BYTES", 1100)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Names, shapes and bits, those expected in the dtypes that were found."""
    assert set(found) == set(expected)
    return all(
        found[name].shape == array.shape
        and found[name].tobytes() == array.astype(found[name].dtype).tobytes()
        for name, array in expected.items()
    )


@pytest.mark.usefixtures("small_tasks")
def test_every_executor_writes_the_same_bytes(made: Made, tmp_path: Path) -> None:
    source, expected = made
    written = {}
    transposed = any(name.startswith("transformer.") for name in expected)
    # A cluster starts for seconds: one of both kinds goes through it.
    for name in EXECUTORS if transposed else ("serial", "threads"):
        out = tmp_path / name
        threads = 1 if name == "serial" else 2
        anamnesis.convert(
            source, out, to="hf", executor=name, threads=threads, max_shard_size="100kB"
        )
        written[name] = contents(out)
    assert sum(name.endswith(".safetensors") for name in written["serial"]) > 2
    assert all(found == written["serial"] for found in written.values())
    assert same(tensors(tmp_path / "serial"), expected)


@pytest.mark.usefixtures("small_tasks")
def test_the_open_model_and_a_comparison_have_the_same_basis(made: Made, tmp_path: Path) -> None:
    source, expected = made
    anamnesis.convert(source, tmp_path / "out", to="hf")
    written = tensors(tmp_path / "out")
    assert {array.dtype for array in written.values()} == {np.dtype(np.float32)}
    assert same(written, expected)
    model = anamnesis.open_model(source, names="hf")
    assert same({name: model[name].to_numpy() for name in model}, expected)
    for first, second in ((source, tmp_path / "out"), (tmp_path / "out", source)):
        rows = anamnesis.diff(first, second).rows
        assert {row.tensor for row in rows if row.identical} == set(expected)
    name = max(expected)
    expected[name][3, 5] += 1
    save_file(expected, tmp_path / "changed.safetensors")
    rows = anamnesis.diff(source, tmp_path / "changed.safetensors").rows
    assert [row.tensor for row in rows if not row.identical] == [name]


def test_killed_and_run_again(
    made: Made, tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    source, expected = made
    out = tmp_path / "out"
    arguments = ["convert", str(source), "--to", "hf", "--max-shard-size", "100kB", "-o", str(out)]
    arguments += ["--threads", "1"]
    child = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], stderr=subprocess.PIPE)
    while not (out.is_dir() and list(out.glob("model-*"))):
        assert child.poll() is None, child.stderr
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    finished = {path: path.stat().st_ino for path in out.glob("model-*")}
    done = amn(*arguments)
    assert done.returncode == 0, done.stderr
    assert any(path.stat().st_ino == inode for path, inode in finished.items())
    assert same(tensors(out), expected)
    anamnesis.convert(source, tmp_path / "whole", to="hf", max_shard_size="100kB")
    assert contents(out) == contents(tmp_path / "whole")
