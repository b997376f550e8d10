"""Layers of GPT-2 that were quantised as `Linear`'s: as the class keeps them, and as GGUF does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import decoded
from llama_folder import add_tokenizer
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.names.gguf_view import gguf_view
from anamnesis.names.open import open_named
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import load_model

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

WIDTH = 64
SHAPES = {  # [outputs, inputs]
    "attn.c_attn": (3 * WIDTH, WIDTH),
    "attn.c_proj": (WIDTH, WIDTH),
    "mlp.c_fc": (4 * WIDTH, WIDTH),
    "mlp.c_proj": (WIDTH, 4 * WIDTH),
}
LAYER = "transformer.h.0."
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": WIDTH,
    "n_head": 4,
    "n_layer": 1,
    "n_positions": 32,
    "vocab_size": 280,
    "layer_norm_epsilon": 1e-5,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GPT-2 with the codes and scales that `Linear8bitLt` saves."""
    rng = np.random.default_rng(3)

    def numbers(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    parts: dict[str, Any] = {
        "transformer.wte.weight": numbers(280, WIDTH),
        "transformer.wpe.weight": numbers(32, WIDTH),
    }
    for name in (f"{LAYER}ln_1", f"{LAYER}ln_2", "transformer.ln_f"):
        parts |= {f"{name}.weight": numbers(WIDTH), f"{name}.bias": numbers(WIDTH)}
    for name, (rows, columns) in SHAPES.items():
        codes = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
        parts |= {f"{LAYER}{name}.weight": codes, f"{LAYER}{name}.SCB": np.abs(numbers(rows))}
        parts |= {f"{LAYER}{name}.bias": numbers(rows)}
    out = tmp_path / "gpt2"
    out.mkdir()
    save_file(parts, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(CONFIG))
    add_tokenizer(out, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return out


def as_stored(folder: Path) -> dict[str, Any]:
    """The layers' matrices as their codes lie, `[outputs, inputs]`."""
    return {
        name: decoded(tensor, 64, np.float32).reshape(SHAPES[name])
        for tensor in load_model(str(folder)).tensors
        if (name := tensor.name.removeprefix(LAYER).removesuffix(".weight")) in SHAPES
        and tensor.name.endswith(".weight")
    }


def test_the_class_gets_inputs_by_outputs(folder: Path, tmp_path: Path) -> None:
    outcome = anamnesis.remember(folder, tmp_path / "out", dtype="f32", executor="serial")
    found = load_file(tmp_path / "out" / "model.safetensors")
    model = anamnesis.open_model(folder)
    for name, matrix in as_stored(folder).items():
        full = f"{LAYER}{name}.weight"
        np.testing.assert_array_equal(found[full], matrix.T)
        assert model[full].shape == matrix.T.shape
    assert any("comes out as [inputs, outputs]" in note for note in outcome.notes)


def test_a_gguf_gets_the_codes_as_they_lie(folder: Path, tmp_path: Path) -> None:
    anamnesis.convert(folder, tmp_path / "m.gguf", to="gguf", dtype="f32", executor="serial")
    found = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    names = {"attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc"}
    for name, stored in (names | {"ffn_down": "mlp.c_proj"}).items():
        matrix = as_stored(folder)[stored]
        np.testing.assert_array_equal(found[f"blk.0.{name}.weight"], matrix)


def test_a_matrix_that_is_transposed_twice_is_read_in_order(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    view = gguf_view(open_named(str(folder)), config)
    quantised = [t for t in view.model.tensors if t.quantised]
    assert len(quantised) == len(SHAPES)
    assert all(type(t) is Tensor for t in quantised)
