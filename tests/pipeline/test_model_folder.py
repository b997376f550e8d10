"""A model folder in, a model folder out: shards, index, a config without quantisation, sidecars."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.pipeline.companions import clean_config

Entries = Mapping[str, tuple[str, tuple[int, ...], bytes]]
Write = Callable[[Path, Entries], Path]
QUANTISATION = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.fixture
def folder(tmp_path: Path, write_safetensors: Write) -> Path:
    """Two shards with an index; a weight and its scale lie in different ones."""
    source = tmp_path / "model-fp8"
    source.mkdir()
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 126, (200, 300), dtype=np.uint8)
    scales = rng.random((2, 3), dtype=np.float32)
    norm = rng.integers(0, 0x4000, 300, dtype=np.uint16)
    first = {"layer.weight": ("F8_E4M3", (200, 300), codes.tobytes())}
    second = {
        "layer.weight_scale_inv": ("F32", (2, 3), scales.tobytes()),
        "norm.weight": ("BF16", (300,), norm.tobytes()),
    }
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {}
    for name, entries in zip(names, (first, second), strict=True):
        write_safetensors(source / name, entries)
        weight_map |= dict.fromkeys(entries, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "float8_e4m3fn",
        "quantization_config": QUANTISATION,
        "text_config": {"dtype": "float16", "quantization": {"bits": 4}, "hidden_size": 300},
    }
    (source / "config.json").write_text(json.dumps(config))
    for name in (
        "tokenizer.json",
        "chat_template.jinja",
        "modeling_x.py",
        "generation_config.json",
    ):
        (source / name).write_text(json.dumps({"name": name}))
    for name in ("quantize_config.json", "hf_quant_config.json", "recipe.yaml", ".hidden"):
        (source / name).write_text("{}")
    (source / "pytorch_model.bin").write_bytes(b"other weights")
    return source


def test_a_folder_that_model_libraries_load(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model-bf16"
    anamnesis.remember(folder, out)
    assert sorted(p.name for p in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_x.py",
        "tokenizer.json",
    ]
    assert json.loads((out / "config.json").read_text()) == {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "hidden_size": 300},
    }
    assert (out / "modeling_x.py").read_text() == '{"name": "modeling_x.py"}'
    model = anamnesis.open_model(out)
    assert set(model) == {"layer.weight", "norm.weight"}
    weight = anamnesis.open_model(folder)["layer.weight"]
    assert weight.scheme == "fp8-block"
    assert weight.to_numpy().tobytes() == model["layer.weight"].to_numpy().tobytes()


def test_shards_have_a_true_index(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sharded"
    anamnesis.remember(folder, out, max_shard_size="119000B")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200 * 300 * 2 + 600
    assert index["weight_map"] == {
        "layer.weight": "model-00001-of-00002.safetensors",
        "norm.weight": "model-00002-of-00002.safetensors",
    }


def test_a_file_takes_no_companions_along(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "alone" / "model.safetensors"
    anamnesis.remember(folder, out)
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "model.safetensors",
        "model.safetensors.anamnesis.json",
    ]


def test_folders_that_a_glob_matches_are_inputs_of_their_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model-two").symlink_to(folder)
    job = anamnesis.pipeline.config.job_from(
        inputs=[str(tmp_path / "model-*")], output={"path": str(tmp_path / "all")}
    )
    outcomes = anamnesis.run(job)
    assert [Path(o.path).name for o in outcomes] == ["model-fp8", "model-two"]


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_the_dtype_keys_say_what_was_written(dtype: str) -> None:
    config = clean_config({"a": [{"quantization_config": 1}], "dtype": None}, dtype)
    name = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype]
    assert config == {"a": [{}], "torch_dtype": name, "dtype": name}
