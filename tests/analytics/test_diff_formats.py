"""Differences of models in two formats, against numpy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from diff_models import Write, f32, write_gguf

import anamnesis
from anamnesis.analytics.diff import plan as diff_plan
from anamnesis.analytics.diff.record import Row
from anamnesis.errors import FormatError, UnsupportedError


def expected(a: Any, b: Any) -> dict[str, float]:
    """numpy's figures of arrays without NaN and infinity."""
    x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    bits = [v.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16) for v in (x, y)]
    with np.errstate(divide="ignore"):
        return {
            "max_abs_error": np.abs(x - y).max(),
            "mean_abs_error": np.abs(x - y).mean(),
            "rms_error": np.sqrt(np.mean((x - y) ** 2)),
            "relative_error": np.linalg.norm(x - y) / np.linalg.norm(x),
            "sqnr_db": 10 * np.log10((x * x).sum() / ((x - y) ** 2).sum()),
            "cosine": x @ y / np.linalg.norm(x) / np.linalg.norm(y),
            "bits_equal": (bits[0] == bits[1]).sum(),
        }


def check(row: Row, a: Any, b: Any) -> None:
    wanted = expected(a, b)
    found = row.to_dict()
    assert row.status == "compared"
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-10)
    assert (row.shape, row.broken, row.elements) == (a.shape, 0, a.size)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("f32", "bf16"),
        ("f32", "f16"),
        ("bf16", "f16"),
        ("f32", "gptq"),
        ("gptq", "awq"),
        ("awq", "gptq"),
        ("awq", "Q4_0"),
        ("Q8_0", "gptq"),
        ("Q8_0", "Q4_0"),
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_formats_against_numpy(
    models: Mapping[str, tuple[Path, Any]],
    a: str,
    b: str,
    small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if small:  # windows that end in different places on the two sides, and several pieces
        monkeypatch.setattr(diff_plan, "WINDOW_ELEMS", 700)
        monkeypatch.setattr(diff_plan, "TASK_ELEMS", 9000)
    (path_a, values_a), (path_b, values_b) = models[a], models[b]
    found = anamnesis.diff(path_a, path_b)
    assert [row.tensor for row in found] == ["l.weight"]
    check(found["l.weight"], values_a, values_b)


def test_a_model_and_what_was_recovered_of_it(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "recovered.safetensors"
    anamnesis.remember(sample, out)
    found = anamnesis.diff(sample, out)
    assert len(found.compared) == len(found) == 11
    assert all(row.identical for row in found)
    assert found.total.noise > 0  # the rounding to BF16
    again = anamnesis.diff(out, out)
    assert {row.sqnr_db for row in again} == {math.inf}
    assert repr(again).startswith("<Diff ")


CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"


@pytest.mark.parametrize("family", sorted(p.name for p in CORPUS.glob("*") if p.is_dir()))
def test_published_layouts_against_what_is_recovered_of_them(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_plan, "WINDOW_ELEMS", 3000)
    monkeypatch.setattr(diff_plan, "TASK_ELEMS", 20_000)
    for path in sorted((CORPUS / family).glob("*")):
        out = tmp_path / "recovered.safetensors"
        with contextlib.suppress(UnsupportedError, FormatError):
            anamnesis.remember(path, out, dtype="f32")
            found = anamnesis.diff(path, out)
            assert {row.status for row in found} == {"compared"}
            assert {row.sqnr_db for row in found if row.elements} == {math.inf}
            return
    pytest.skip(f"none of {family} is implemented")


def llama_cpp_order(weight: Any, heads: int) -> Any:
    """Rows as llama.cpp's converter writes them: `LlamaModel.permute`, conversion/llama.py."""
    rows = weight.shape[0] // heads // 2
    return (
        weight.reshape(heads, 2, rows, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
        .copy()
    )


@pytest.mark.parametrize("window", [64, 5000, 1 << 18])
def test_rows_of_gguf_heads_are_put_back(
    tmp_path: Path, write_safetensors: Write, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_plan, "WINDOW_ELEMS", window)
    monkeypatch.setattr(diff_plan, "TASK_ELEMS", 3 * window)
    rng = np.random.default_rng(2)
    q, k = (rng.standard_normal((rows, 64)).astype(np.float32) for rows in (192, 96))
    bias = rng.standard_normal(192).astype(np.float32)
    hf = {f"model.layers.3.self_attn.{n}_proj.weight": f32(v) for n, v in (("q", q), ("k", k))}
    hf["model.layers.3.self_attn.q_proj.bias"] = f32(bias)
    a = write_safetensors(tmp_path / "a.safetensors", hf)
    eight = gguf.GGMLQuantizationType.Q8_0
    tensors = {
        "blk.3.attn_q.weight": (gguf.quantize(llama_cpp_order(q, 6), eight), eight),
        "blk.3.attn_k.weight": (llama_cpp_order(k, 3), None),
        "blk.3.attn_q.bias": (llama_cpp_order(bias, 6), None),
    }
    b = write_gguf(tmp_path / "b.gguf", tensors, head_count=6, head_count_kv=3)
    for pair in ((a, b), (b, a)):
        found = {row.module: row for row in anamnesis.diff(*pair)}
        assert found["self_attn.k_proj"].identical
        assert found["self_attn.q_proj.bias"].identical
        assert found["self_attn.q_proj"].sqnr_db > 40
    found_q = next(r for r in anamnesis.diff(a, b) if r.module == "self_attn.q_proj")
    check(found_q, q, gguf.dequantize(gguf.quantize(q, eight), eight))

    same = anamnesis.diff(b, b)
    assert all(row.identical for row in same)
    silent = write_gguf(tmp_path / "silent.gguf", tensors)
    told = anamnesis.diff(a, silent)
    assert "3 tensors of q and k" in told.notes[0]
    assert told.rows[0].sqnr_db < 5
