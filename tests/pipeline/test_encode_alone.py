"""Encoded weights in a file by itself are read back: what `config.json` would say is in it."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from llama_folder import METHODS, llama_folder
from safetensors import safe_open
from safetensors.numpy import save_file

import anamnesis
from anamnesis.kernels.encoders import ENCODERS
from anamnesis.readers.model import load_model

LINEAR = "model.layers.0.mlp.up_proj.weight"
KEPT = "lm_head.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of a linear layer, a head and a norm in BF16, and a configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(3)
    shapes = {LINEAR: (256, 320), KEPT: (128, 256), "model.norm.weight": (256,)}
    tensors = {
        name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def targets() -> list[str]:
    """Every target of safetensors with its defaults, and with other values of each setting."""
    found = []
    for name, row in ENCODERS.items():
        if name.startswith("gguf-"):
            continue
        found.append(name)
        for key, setting in row.keys.items():
            others = [value for value in setting.allowed if value != setting.default][:2]
            found += [
                f"{name}:{key}={str(other).lower()}"
                for other in others or [64] * (not setting.allowed)
            ]
    return found


def values(path: Path) -> dict[str, bytes]:
    model = anamnesis.open_model(path)
    return {name: model[name].to_numpy().tobytes() for name in model}


@pytest.mark.parametrize("target", targets())
def test_a_file_alone_says_how_it_is_read(target: str, model: Path, tmp_path: Path) -> None:
    anamnesis.convert(model, tmp_path / "folder", to="safetensors", encode=target)
    wanted = values(tmp_path / "folder")
    for source, out in (
        (model, tmp_path / "alone.safetensors"),
        (model / "model.safetensors", tmp_path / "out"),  # a folder, without a config.json
    ):
        anamnesis.convert(source, out, to="safetensors", encode=target)
        assert not (out / "config.json").exists()
        assert load_model(str(out)).notes == ()
        assert values(out) == wanted


def test_the_metadata_is_what_the_configuration_would_say(model: Path, tmp_path: Path) -> None:
    anamnesis.convert(model, tmp_path / "o", to="safetensors", encode="fp8-block:block=64")
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    with safe_open(tmp_path / "o" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}  # said once
    out = tmp_path / "o.safetensors"
    anamnesis.convert(model, out, to="safetensors", encode="fp8-block:block=64")
    with safe_open(out, "np") as file:
        block = json.loads(file.metadata()["quantization_config"])
    assert block == config["quantization_config"]
    assert block["weight_block_size"] == [64, 64]
    back = tmp_path / "back.safetensors"
    anamnesis.remember(out, back)
    with safe_open(back, "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    "target", ["bnb-nf4", "fp8-block:block=32", "gptq:group=32,sym=false,version=2", "nvfp4"]
)
def test_a_folder_out_of_a_gguf_says_it_as_well(target: str, tmp_path: Path) -> None:
    """The same block in `config.json`, and the same bytes, as out of the folder it was made of."""
    llama = llama_folder(tmp_path / "llama", METHODS[0])
    anamnesis.remember(llama, tmp_path / "dense")
    anamnesis.convert(tmp_path / "dense", tmp_path / "m.gguf", to="gguf")
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf", encode=target)
    anamnesis.convert(tmp_path / "dense", tmp_path / "wanted", to="safetensors", encode=target)
    blocks = [
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"]
        for name in ("hf", "wanted")
    ]
    assert blocks[0] == blocks[1]
    assert values(tmp_path / "hf") == values(tmp_path / "wanted")
