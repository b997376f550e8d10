"""Nunchaku: names, shapes, windows, refusals; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden import assert_same_in_windows
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model

LAYOUTS = Path(__file__).resolve().parents[1] / "data" / "layouts" / "nunchaku"
HALF: Any = np.float16
E4M3 = ml_dtypes.float8_e4m3fn
INT4: dict[str, Any] = {
    "qweight": np.full((128, 64), 0x71, np.int8),
    "wscales": np.full((2, 128), 2, HALF),
    "smooth": np.full(128, 4, HALF),
    "lora_down": np.full((128, 16), 1, HALF),
    "lora_up": np.full((128, 16), 0.5, HALF),
    "bias": np.arange(128, dtype=HALF),
}
FP4 = INT4 | {"wscales": np.full((8, 128), 2, E4M3), "bias": None}
W4A16: dict[str, Any] = {
    "qweight": np.full((4, 32), 0x33333333, np.int32),
    "wscales": np.full((16, 16), 2, HALF),
    "wzeros": np.full((16, 16), -5, HALF),
}


def opened(path: Path, module: str, parts: dict[str, Any], metadata: Any = None) -> Any:
    stored = {f"{module}.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, path / "m.safetensors", metadata)
    return anamnesis.open_model(path / "m.safetensors")


def values(model: Any, name: str) -> Any:
    return model[name].to_numpy().astype(np.float32)


@pytest.mark.parametrize("method", ["svdquant", "nunchaku", ""])
def test_a_layer_and_its_low_rank(method: str, tmp_path: Path) -> None:
    block = {"quantization_config": f'{{"method": "{method}"}}'} if method else None
    model = opened(tmp_path, "a", INT4, block)
    assert sorted(model) == ["a.bias", "a.weight"]
    assert np.array_equal(values(model, "a.weight")[:, :2], [[8.5, 11.5]] * 128)


@pytest.mark.parametrize(
    ("module", "moved"),
    [
        ("mlp_fc2", True),
        ("transformer_blocks.0.mlp_context_fc2", True),
        ("transformer_blocks.0.img_mlp.net.2", True),
        ("transformer_blocks.0.mlp_fc1", False),
        ("down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2", False),
    ],
)
def test_biases_of_inputs_that_are_moved(module: str, moved: bool, tmp_path: Path) -> None:
    model = opened(tmp_path, module, INT4)
    found = values(model, f"{module}.bias")
    # Stored in the order of an accumulator's lanes: 0 1 8 9, 2 3 10 11, …
    order = np.arange(128).reshape(8, 2, 4, 2).swapaxes(1, 2).reshape(-1)
    shift = 64 * (1 + 7) * 2 / 4 * 0.171875 if moved else 0
    assert np.array_equal(found[order], INT4["bias"].astype(np.float32) + shift)
    notes = load_model(str(tmp_path / "m.safetensors")).notes
    assert any("after a GELU" in note for note in notes) is moved


LITE = {"quant_method": "nunchaku_lite", "svdq_w4a4": {"precision": "int4", "group_size": 64}}
MANIFEST = {"runtime_manifest": {"schema": "nunchaku_lite.runtime_manifest", "version": 1}}


@pytest.mark.parametrize("block", [LITE, {"method": "svdquant"} | MANIFEST])
@pytest.mark.parametrize("module", ["b.0.img_mlp.net.2", "b.0.ff.net.2", "b.0.mlp_fc2"])
def test_nunchaku_lite_moves_no_input(block: Any, module: str, tmp_path: Path) -> None:
    parts = W4A16 | {"wscales": W4A16["wscales"][:1], "wzeros": W4A16["wzeros"][:1]}
    stored = {f"b.0.norm.linear.{name}": array for name, array in parts.items()}
    stored |= {f"{module}.{name}": array for name, array in INT4.items()}
    save_file(stored, tmp_path / "m.safetensors", {"quantization_config": json.dumps(block)})
    model = load_model(str(tmp_path / "m.safetensors"))
    assert not any("after a GELU" in note or "W4A16" in note for note in model.notes)
    found = values(anamnesis.open_model(tmp_path / "m.safetensors"), f"{module}.bias")
    order = np.arange(128).reshape(8, 2, 4, 2).swapaxes(1, 2).reshape(-1)
    assert np.array_equal(found[order], INT4["bias"].astype(np.float32))


def test_a_low_rank_part_of_rank_0(tmp_path: Path) -> None:
    none = np.zeros((128, 0), HALF)
    model = opened(tmp_path, "a", INT4 | {"lora_down": none, "lora_up": none})
    assert np.array_equal(values(model, "a.weight")[:, :2], [[0.5, 3.5]] * 128)


def test_layers_that_are_said_to_lie_in_rows_are_refused(tmp_path: Path) -> None:
    target = {"export_name": "a", "runtime_tensor_layout": "logical"}
    block = json.dumps({"method": "svdquant", "targets": [target]})
    with pytest.raises(UnsupportedError, match="logical"):
        opened(tmp_path, "a", INT4, {"quantization_config": block})


def test_fp4_is_not_moved(tmp_path: Path) -> None:
    model = opened(tmp_path, "x.net.2", FP4 | {"bias": np.ones(128, HALF)})
    assert np.array_equal(values(model, "x.net.2.bias"), np.ones(128))


def test_both_factors_of_fp4(tmp_path: Path) -> None:
    factors = {"wtscale": np.full((), 3, HALF), "wcscales": np.full(128, 5, HALF)}
    model = opened(tmp_path, "a", FP4 | factors | {"lora_down": None, "lora_up": None})
    assert np.array_equal(values(model, "a.weight")[:, :2], [[0.5 * 7.5, 6 * 7.5]] * 128)


def test_w4a16(tmp_path: Path) -> None:
    model = opened(tmp_path, "norm1.linear", W4A16)
    assert np.array_equal(values(model, "norm1.linear.weight"), np.ones((16, 64)))
    assert any("W4A16" in note for note in load_model(str(tmp_path / "m.safetensors")).notes)


@pytest.mark.parametrize("module", ["ff.net.2", "ff_context.net.2", "mlp.fc2"])
def test_a_name_that_does_not_tell_is_refused(module: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="whether its input is moved"):
        opened(tmp_path, module, INT4)


@pytest.mark.parametrize(
    "parts",
    [
        INT4 | {"qweight": np.ones((64, 64), np.int8)},
        INT4 | {"qweight": np.ones((128, 32), np.int8)},
        INT4 | {"qweight": np.ones((0, 64), np.int8)},
        INT4 | {"qweight": np.ones((128, 64), np.int16)},
        INT4 | {"wscales": np.ones((128, 2), HALF)},
        INT4 | {"wscales": np.ones((8, 128), HALF)},
        INT4 | {"wscales": np.ones((2, 128), np.float32)},
        INT4 | {"wscales": np.ones((2, 128), E4M3)},
        INT4 | {"smooth": None},
        INT4 | {"smooth": np.ones(64, HALF)},
        INT4 | {"lora_down": None},
        INT4 | {"lora_up": None},
        INT4 | {"lora_up": np.ones((128, 32), HALF)},
        INT4 | {"lora_down": np.ones((128, 8), HALF), "lora_up": np.ones((128, 8), HALF)},
        INT4 | {"bias": np.ones(64, HALF)},
        INT4 | {"bias": np.ones(128, np.float32)},
        INT4 | {"wtscale": np.ones(1, HALF)},
        FP4 | {"wtscale": np.ones(2, HALF)},
        FP4 | {"wcscales": np.ones(64, HALF)},
        W4A16 | {"wzeros": None},
        W4A16 | {"wzeros": np.ones((16, 16), ml_dtypes.bfloat16)},
        W4A16 | {"wscales": np.ones((17, 16), HALF), "wzeros": np.ones((17, 16), HALF)},
        W4A16 | {"qweight": np.ones((4, 16), np.int32)},
    ],
)
def test_what_does_not_fit(parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path, "a", parts)


@pytest.mark.parametrize("kind", ["int4-r32", "int4-f16", "fp4-r32"])
def test_windows_of_one_tile_give_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LAYOUTS / kind / "model.safetensors"
    assert_same_in_windows(source, tmp_path, monkeypatch)
