"""FP8 models as transformers saves what it has quantised itself: experts, and dense weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError

EXPERTS, INNER, OUTER = 3, 64, 96  # of an expert: gate and up [INNER, OUTER], down [OUTER, INNER]
GATED = {"gate_proj": 0, "up_proj": 1}
Write = Callable[..., Path]
Parts = dict[str, tuple[str, tuple[int, ...], bytes]]


def codes(rng: np.random.Generator, *shape: int) -> tuple[str, tuple[int, ...], bytes]:
    raw = rng.integers(0, 0x7F, shape, dtype=np.uint8)
    return "F8_E4M3", shape, raw.tobytes()


def scales(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return ("F32" if array.dtype == np.float32 else "F8_E8M0"), array.shape, array.tobytes()


def saved(path: Path, write: Write, parts: Parts, block: Any = (32, 32), **more: Any) -> Path:
    path.mkdir()
    write(path / "model.safetensors", parts)
    method = {"quant_method": "fp8", "weight_block_size": block and list(block), **more}
    (path / "config.json").write_text(json.dumps({"quantization_config": method}))
    return path


def grid(rng: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray:
    shape = (EXPERTS, rows, columns)
    if kind == "exponents":
        return rng.integers(100, 140, shape, dtype=np.uint8)
    return rng.random(shape, np.float32)


@pytest.mark.parametrize(
    "names", [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")], ids=["mlp", "mixtral"]
)
@pytest.mark.parametrize("kind", ["blocks", "exponents", "tensor", "halves"])
def test_fused_scales_are_those_of_single_experts(
    tmp_path: Path, write_safetensors: Write, names: tuple[str, str, str], kind: str
) -> None:
    rng = np.random.default_rng(5)
    blocked = kind in ("blocks", "exponents")
    up_rows = 2 * INNER // 32 if blocked else 2 if kind == "halves" else 1
    both = grid(rng, kind, up_rows, OUTER // 32 if blocked else 1)
    down = grid(rng, kind, OUTER // 32 if blocked else 1, INNER // 32 if blocked else 1)
    stem = "model.layers.0.mlp.experts"
    fused: Parts = {
        f"{stem}.gate_up_proj_scale_inv": scales(both),
        f"{stem}.down_proj_scale_inv": scales(down),
        f"{stem}.down_proj_activation_scale": scales(np.ones(EXPERTS, np.float32)),
    }
    single: Parts = {}
    half = max(1, up_rows // 2)
    for number in range(EXPERTS):
        gate, up = both[number][:half], both[number][-half:]
        parts = zip(names, (gate, up, down[number]), strict=True)
        for at, (name, scale) in enumerate(parts):
            weight = f"{stem}.{number}.{name}.weight"
            single[weight] = fused[weight] = codes(rng, *((INNER, OUTER), (OUTER, INNER))[at == 2])
            single[f"{weight}_scale_inv"] = scales(scale)
    block = (32, 32) if blocked else None
    expected = anamnesis.open_model(saved(tmp_path / "a", write_safetensors, single, block))
    found = anamnesis.open_model(saved(tmp_path / "b", write_safetensors, fused, block))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert np.array_equal(
            tensor.to_numpy().view(np.uint16), expected[name].to_numpy().view(np.uint16)
        ), name


def test_experts_without_a_gate(tmp_path: Path, write_safetensors: Write) -> None:
    rng = np.random.default_rng(5)
    scale = grid(rng, "blocks", 2, 3)
    weight = codes(rng, 64, 96)
    parts = {"e.experts.0.up_proj.weight": weight, "e.experts.up_proj_scale_inv": scales(scale[:1])}
    plain = {"e.0.weight": weight, "e.0.weight_scale_inv": scales(scale[0])}
    found = anamnesis.open_model(saved(tmp_path / "a", write_safetensors, parts))
    expected = anamnesis.open_model(saved(tmp_path / "b", write_safetensors, plain))
    (a,), (b,) = found.values(), expected.values()
    assert np.array_equal(a.to_numpy().view(np.uint16), b.to_numpy().view(np.uint16))


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((1, 4, 3), "an expert 1"),
        ((2, 3, 3), "an even number of block rows"),
        ((2, 12), "an expert 0"),
        ((2, 4, 2), "does not fit"),
    ],
)
def test_fused_scales_that_do_not_fit(
    tmp_path: Path, write_safetensors: Write, shape: tuple[int, ...], why: str
) -> None:
    rng = np.random.default_rng(5)
    parts: Parts = {f"e.experts.{n}.gate_proj.weight": codes(rng, INNER, OUTER) for n in (0, 1)}
    parts["e.experts.gate_up_proj_scale_inv"] = scales(np.ones(shape, np.float32))
    with pytest.raises(FormatError, match=why):
        anamnesis.open_model(saved(tmp_path / "a", write_safetensors, parts))


def dense(*shape: int) -> tuple[str, tuple[int, ...], bytes]:
    return "BF16", shape, np.full(shape, 1.5, ml_dtypes.bfloat16).tobytes()


def unused(rows: int, columns: int, grid: tuple[int, ...]) -> Parts:
    parts = {f"a.{part}_proj.weight": dense(rows, columns) for part in "kq"}
    scale = scales(np.full(grid, 7e30, np.float32))
    return {**parts, "a.k_proj.weight_scale_inv": scale, "a.q_proj.weight_scale_inv": scale}


def test_scales_of_weights_that_stayed_dense_are_left_out(
    tmp_path: Path, write_safetensors: Write
) -> None:
    parts = unused(48, 64, (2, 2))
    stem, ones = "b.experts", np.ones((EXPERTS, 3, 2), np.float32)
    parts |= {f"{stem}.{n}.{p}.weight": dense(40, 64) for n in range(EXPERTS) for p in GATED}
    parts[f"{stem}.gate_up_proj_scale_inv"] = scales(ones)
    parts["a.k_proj.activation_scale"] = scales(np.ones((), np.float32))
    path = saved(tmp_path / "a", write_safetensors, parts)
    assert sorted(anamnesis.open_model(path)) == sorted(n for n in parts if n.endswith("weight"))
    (note,) = (note for note in anamnesis.inspect(path).notes if "stayed dense" in note)
    assert "32x32" in note
    assert "and 2 more" in note


@pytest.mark.parametrize(
    ("shape", "grid", "more"),
    [
        ((64, 64), (2, 2), {}),  # the blocks divide it: the quantiser would have taken it
        ((48, 64), (1, 2), {}),  # no grid that its module has
        ((48, 64), (2, 2), {"quant_method": "mxfp8"}),
        ((48, 64), (2, 2), {"weight_block_size": None}),
    ],
)
def test_other_scales_of_dense_weights_are_refused(
    tmp_path: Path,
    write_safetensors: Write,
    shape: tuple[int, int],
    grid: tuple[int, int],
    more: dict[str, Any],
) -> None:
    path = saved(tmp_path / "a", write_safetensors, unused(*shape, grid), **more)
    with pytest.raises(FormatError, match="no scheme consumed"):
        anamnesis.open_model(path)
