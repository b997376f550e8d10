"""What loaders are told of an encoded model: `config.json`, and files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis

MODULES = [f"model.layers.{n}.mlp.up_proj" for n in range(2)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two matrices, a router and a head, in BF16."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = (*MODULES, "model.layers.0.mlp.gate", "lm_head")
    matrix = np.ones((32, 64), ml_dtypes.bfloat16)
    save_file({f"{name}.weight": matrix for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "quanto_qmap.json").write_text(json.dumps({"lm_head": {"weights": "qint2"}}))
    return folder


def block(model: Path, out: Path, encode: str) -> Any:
    anamnesis.convert(model, out, to="safetensors", encode=encode)
    return json.loads((out / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize(
    ("kind", "name"), [("qint8", "qint8"), ("qfloat8", "qfloat8_e4m3fn")], ids=str
)
def test_quanto_has_a_map_of_its_layers(model: Path, tmp_path: Path, kind: str, name: str) -> None:
    done = anamnesis.convert(
        model, tmp_path / "out", to="safetensors", encode=f"quanto:type={kind}"
    )
    found = json.loads((tmp_path / "out" / "quanto_qmap.json").read_text())
    assert found == {key: {"weights": name, "activations": "none"} for key in MODULES}
    assert [note for note in done.notes if "QuantizedModelForCausalLM" in note]
    assert anamnesis.verify(tmp_path / "out", against=model)["tensors"] == 10
    anamnesis.convert(model, tmp_path / "out", to="safetensors", overwrite=True)
    assert not (tmp_path / "out" / "quanto_qmap.json").exists()


def test_nvfp4_of_modelopt_has_no_scales_of_inputs(model: Path, tmp_path: Path) -> None:
    """Under NVFP4 vLLM has input scales of whatever is in memory where a file has none."""
    found = block(model, tmp_path / "out", "nvfp4:style=modelopt")
    assert found["quant_algo"] == "W4A16_NVFP4"
    assert {"model.layers.0.mlp.gate", "lm_head"} <= set(found["exclude_modules"])


@pytest.mark.parametrize(
    ("target", "kind"),
    [("ct-int-quantized", "int"), ("fp8-channel", "float"), ("fp8-tensor", "float")],
)
def test_inputs_that_a_loader_quantises(
    model: Path, tmp_path: Path, target: str, kind: str
) -> None:
    """The codes are the same; compressed-tensors' presets INT8 and FP8_DYNAMIC have such inputs."""
    (plain,) = block(model, tmp_path / "a", target)["config_groups"].values()
    (group,) = block(model, tmp_path / "b", f"{target}:activations=dynamic")[
        "config_groups"
    ].values()
    assert plain["input_activations"] is None
    inputs = group.pop("input_activations")
    assert {
        "type": kind,
        "num_bits": 8,
        "dynamic": True,
        "strategy": "token",
    }.items() <= inputs.items()
    assert group == {key: value for key, value in plain.items() if key in group}
    first, second = (tmp_path / name / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
