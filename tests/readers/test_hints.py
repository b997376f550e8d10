"""Statements of a method in uncommon words: integers are refused by them, floats are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from small_models import ledger_of

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import FileId
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

FLOATS = {
    "m.weight": ("BF16", (64, 64)),
    "m.bias": ("F32", (64,)),
    "m.q_proj.weight": ("BF16", (64, 8)),
    "e.position_ids": ("I64", (1, 512)),
}
# A part of config.json, and what of it the error shows.
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"compression": {"method": "foo", "bits": 4}}, "json: compression"),
    ({"compression": "int4"}, r"compression \(int4\)"),
    ({"quant_methods": ["foo"]}, "json: quant_methods"),
    ({"bits": 4, "group_size": 128}, r"json: bits \(4\)"),
    ({"bits": "4"}, r"json: bits \(4\)"),
    ({"a": [{"wbits": 4}]}, r"json: a\.0\.wbits"),
    ({"text_config": {"wBits": 4.0}}, r"text_config\.wBits"),
    ({"n_bits": [4, 16]}, "n_bits"),
    ({"quantization_bit": 8}, "quantization_bit"),
    ({"bits_per_weight": 2.5}, "bits_per_weight"),
    ({"load_in_4bit": True}, "load_in_4bit"),
    ({"load_in_4bit": "true"}, "load_in_4bit"),
    ({"weight_dtype": "int8"}, "weight_dtype"),
    ({"weight_format": "q4_0"}, "weight_format"),
    ({"precision": "int4"}, "precision"),
    ({"weight_precision": 4}, "weight_precision"),
    ({"torch_dtype": "torch.int8"}, "torch_dtype"),
    ({"dtype": "uint8"}, "dtype"),
    ({"engine": ["AutoAWQ"]}, r"engine\.0"),
    ({"backend": "gptqmodel"}, "backend"),
    ({"x": {"y": {"z": "a 4-bit model"}}}, r"x\.y\.z"),
    ({"architectures": ["QuantLlamaForCausalLM"]}, "architectures"),
    ({"weights": "ternary"}, "weights"),
    ({"PTQ": {"algorithm": "foo"}}, "PTQ"),
    ({"BitsAndBytesConfig": {"a": True}}, "BitsAndBytesConfig"),
]
STATEMENTS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    *(({"config.json": config}, {}, named) for config, named in CONFIGS),
    ({"awq_config.json": {"method": "foo"}}, {}, "awq_config.json"),
    ({"model_int8.json": {}}, {}, "model_int8.json"),
    ({}, {"format": "gptq"}, r"metadata format \(gptq\)"),
    ({}, {"format": "4-bit"}, "metadata format"),
    ({}, {"format": "awq-int4"}, "metadata format"),
    ({}, {"weight_format": "int4"}, "metadata weight_format"),
    ({}, {"x": '{"y": [{"nbits": 3}]}'}, r"metadata x\.y\.0\.nbits"),
]
# Settings of models that quantise signals, or nothing.
PLAIN: list[dict[str, Any]] = [
    {"torch_dtype": "bfloat16", "dtype": "float32", "weight_dtype": "float16"},
    {"compression": 4, "temporal_compression_ratio": 4, "compress_ratios": [1, 4]},
    {"vision_config": {"bits": 8, "num_bits": 8}},
    {"codebook_size": 1024, "num_bits": 8},
    {"num_quantizers": 8, "quantizer_dropout": 0.5, "quantizer": {"method": "rvq"}},
    {"vector_quantize": True, "quantization_levels": [4, 4]},
    {"quant_methods": [], "load_in_4bit": False, "use_int8": "no", "quantized": 16},
    {"bits_per_sample": 8, "activation_bits": 8, "kv_cache_dtype": "fp8"},
    {"dequantized_from": "gptq", "modules_to_not_convert": ["int8"]},
    {"optim": "paged_adamw_8bit", "optimizer": {"name": "adamw_bnb_8bit"}, "label2id": {"int8": 3}},
    {"hidden_act": "quick_gelu", "quantile": 4, "precision": 16, "model_type": "higgs_audio"},
    {"tensors": {"a": "int8[3, 64, 32]", "b": "fp8 (3x64)", "c": {"dtype": "U8", "shape": [4]}}},
]


def book(parts: Any, configs: Any, metadata: Any) -> Ledger:
    return ledger_of(parts, configs=configs, metadata=metadata, kind="safetensors")


@pytest.mark.parametrize(("configs", "metadata", "named"), STATEMENTS, ids=str)
@pytest.mark.parametrize("dtype", ["I8", "U8", "I32"])
def test_integers_beside_a_statement_are_refused_by_it(
    configs: Any, metadata: Any, named: str, dtype: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        resolve(book({"x.weight": (dtype, (32, 64)), **FLOATS}, configs, metadata))


@pytest.mark.parametrize(("configs", "metadata", "named"), STATEMENTS, ids=str)
def test_floats_beside_a_statement_stay(configs: Any, metadata: Any, named: str) -> None:
    found = book(FLOATS, configs, metadata)
    resolve(found)
    assert set(found.tensors) == set(FLOATS), named
    # A word that nobody is known to use is noted at most.
    assert [note for note in found.notes if "is not known here" not in note] == []


@pytest.mark.parametrize("config", PLAIN, ids=str)
def test_settings_of_plain_models_are_no_statements(config: dict[str, Any]) -> None:
    for form in ("pt", "mlx", "np", "tf"):
        parts = {"x.table": ("I32", (4, 4)), **FLOATS}
        found = book(parts, {"config.json": config}, {"format": form})
        resolve(found)
        assert set(found.tensors) == set(parts)
        assert ["'x.table'" in note for note in found.notes] == [True]


@pytest.mark.parametrize("name", ["model-4bit-128g.safetensors", "x.int8.safetensors"])
def test_the_name_of_the_weights_is_a_statement(name: str) -> None:
    file = FileId(f"/fp8/{name}", 0, 0, 0, 0)
    with pytest.raises(UnsupportedError, match=f"the name of {name}"):
        resolve(ledger_of({"x.weight": ("I8", (32, 64)), **FLOATS}, file=file))


@pytest.mark.parametrize("configs", [configs for configs, _, _ in STATEMENTS[:10]], ids=str)
def test_floats_of_the_shape_of_codes_are_refused_unless_left_alone(configs: Any) -> None:
    """The same under a stated method is in test_model_sizes."""
    parts = {"m.q_proj.weight": ("BF16", (64, 16))}
    config = {**configs["config.json"], "hidden_size": 64}
    with pytest.raises(UnsupportedError, match=r"config\.json: .* has 64 inputs or outputs"):
        resolve(book(parts, {"config.json": config}, {}))
    for entry in ("m.q_proj", "q_proj", "re:.*q_proj", "m.*"):
        alone = {"export": [{"modules_to_not_convert": [entry]}]}
        resolve(book(parts, {"config.json": {**config, **alone}}, {}))


WORDS = st.sampled_from(["use", "layer", "expert", "model", "the", "my", "linear", "llm"])
SPEAKING = st.sampled_from(
    "int4 fp8 nf4 gptq awq w4a16 4bit quantized quantization hqq q4_0".split()
)
JOINTS = st.sampled_from(["_", "-", ".", " "])


@given(
    words=st.lists(WORDS, max_size=2),
    speaking=SPEAKING,
    joint=JOINTS,
    before=st.booleans(),
    as_key=st.booleans(),
    wrapped=st.lists(st.sampled_from(["a", "text_config", "parts", 0]), max_size=4),
    place=st.sampled_from(["config.json", "x_config.json", "args.json", "metadata", "file"]),
)
def test_invented_statements_are_never_ignored(
    words: list[str],
    speaking: str,
    joint: str,
    before: bool,
    as_key: bool,
    wrapped: list[Any],
    place: str,
) -> None:
    """Any words around one that speaks, in a key or a text, at any depth of any file."""
    said = joint.join([*words, speaking] if before else [speaking, *words])
    document: Any = {said: True} if as_key else {"setting": said}
    for around in wrapped:
        document = [document] if around == 0 else {around: document}
    document = document if isinstance(document, dict) else {"list": document}
    configs, metadata, file = {}, {}, "model.safetensors"
    if place == "metadata":
        metadata = {"about": json.dumps(document)}
    elif place == "file":
        file = f"{said}.safetensors"
    else:
        configs = {place: document}
    parts = {"x.weight": ("I8", (32, 64)), **FLOATS}
    found = ledger_of(
        parts, configs=configs, metadata=metadata, file=FileId(file, 1 << 30, 0, 0, 0)
    )
    with pytest.raises(UnsupportedError):
        resolve(found)


def test_a_method_may_have_a_dot_in_its_key() -> None:
    with pytest.raises(UnsupportedError, match=r"quantization\.method \(foo-bits\)"):
        resolve(book(FLOATS, {}, {"quantization.method": "foo-bits"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantization:\n  algorithm: int4_awq\n", "quantization"),
        ("quantizer:\n  _component_: torchtune.Int8DynActInt4WeightQuantizer\n", "_component_"),
        ("model:\n  - bits: 4\n", r"model\.0\.bits \(4\)"),
        ("a: !!python/object:x.y {precision: int8}\n", r"a\.precision"),
        ("x: &one {bits: 4}\n", r"x\.bits"),
    ],
)
@pytest.mark.parametrize("name", ["recipe.yaml", "model_config.yml"])
def test_words_in_yaml_count(tmp_path: Path, name: str, text: str, said: str) -> None:
    save_file({"m.weight": np.ones((8, 8), np.int8)}, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(text)
    with pytest.raises(UnsupportedError, match=f"under {name}: .*{said}"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["bits: [", "- bits: 4", "a: &a {bits: 4}\nb: *a", "[" * 40 + "]" * 40, "\x00", "", "a: 16",
     "bits: 4\n" + "#" * 32768, "a: 1\n---\nbits: 4", "precision: bf16", "? {a: b}\n: 1"],
)  # fmt: skip
def test_yaml_that_says_nothing_is_no_reason_to_refuse(tmp_path: Path, text: str) -> None:
    save_file({"m.weight": np.ones((8, 8), np.int8)}, tmp_path / "model.safetensors")
    (tmp_path / "x.yaml").write_text(text)
    assert len(load_model(str(tmp_path)).tensors) == 1


@pytest.mark.parametrize("name", ["config.toml", "config.ini", "notes.txt"])
def test_what_is_no_json_or_yaml_says_nothing(tmp_path: Path, name: str) -> None:
    save_file({"m.weight": np.ones((8, 8), np.int8)}, tmp_path / "model.safetensors")
    (tmp_path / name).write_text("quantization = 'int4'\n")
    assert len(load_model(str(tmp_path)).tensors) == 1
