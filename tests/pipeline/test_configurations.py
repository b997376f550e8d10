"""What the files beside a recovered model say: nothing of quantisation, wherever it was stated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.pipeline.companions import clean_config
from anamnesis.pipeline.config_rules import RULES, clean, is_config, is_narrow, left_out, table
from anamnesis.readers.schemes._siblings import ACTIVATION_SCALES
from anamnesis.readers.schemes._stated import FILES
from anamnesis.readers.schemes._stated_words import ENDINGS, KEYS

Write = Callable[..., Path]


@pytest.fixture
def convert(tmp_path: Path, write_safetensors: Write) -> Callable[..., Path]:
    """Recover a folder of an FP8 weight (or a dense one) with these files beside it."""

    def run(files: dict[str, Any], *, dense: bool = False, **settings: Any) -> Path:
        source, out = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        entries: dict[str, Any] = {"a.weight": ("F8_E4M3", (2, 2), bytes(4))}
        entries["a.weight_scale"] = ("F32", (), np.float32(1).tobytes())
        if dense:
            entries = {"a.weight": ("F32", (2, 2), bytes(16))}
        write_safetensors(source / "model.safetensors", entries)
        for name, document in files.items():
            text = document if isinstance(document, str) else json.dumps(document)
            (source / name).write_text(text)
        anamnesis.remember(source, out, **settings)
        return out

    return run


@pytest.mark.parametrize(
    "name",
    [
        *("quantize_config.json", "quant_config.json", "hf_quant_config.json", "recipe.yaml"),
        *("quant_model_description.json", "quant_model_description_w8a8_dynamic.json"),
        *("quanto_qmap.json", "quantization_map.json", "quantization_config.json"),
        *("jang_config.json", "quant_log.csv", "my-quant-report.yml", "quantized_layers.txt"),
        *("_anamnesis.json", "model.safetensors.anamnesis.json", "job_new.json"),
    ],
)
def test_a_file_about_quantisation_stays_behind(name: str) -> None:
    assert left_out(name)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "modeling_quant.py", "quantization_utils.py"),
        *("quantum_vocab.json", "generation_config.json", "README.md", "preprocessor_config.json"),
        *("params.json", "adapter_config.json", "chat_template.jinja"),
    ],
)
def test_other_files_go_along(name: str) -> None:
    assert left_out(name) is None


def test_every_row_has_its_reason() -> None:
    assert all(rule.why and rule.files for rule in RULES)
    assert all(bool(rule.keys) == (rule.words or rule.action != "leave") for rule in RULES)


def test_configurations_are_cleaned_at_any_depth(convert: Callable[..., Path]) -> None:
    config = {
        "architectures": ["X"],
        "torch_dtype": "float8_e4m3fn",
        "quantize": "w8a8_dynamic",
        "expert_dtype": "fp4",
        "scale_fmt": "ue8m0",
        "quantization_config": {"quant_method": "fp8"},
        "text_config": {
            "ple_embedding_dtype": "float8_e4m3fn",
            "compression_config": {"format": "int-quantized"},
            "mamba_ssm_dtype": "float32",
            "dtype": "float16",
        },
        "vision_config": {"use_quant_conv": True, "num_quantizers": 8, "quantize": True},
        "parts": [{"quantization": {"bits": 4}, "kept": None}],
    }
    params = {"dim": 4, "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}
    generation = {"temperature": 0.6, "quantization_config": {"quant_method": "fp8"}}
    files: dict[str, Any] = {"params.json": params, "generation_config.json": generation}
    out = convert({"config.json": config, **files, "hf_quant_config.json": {"quantization": {}}})
    assert sorted(p.name for p in out.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "params.json"),
    ]
    assert json.loads((out / "config.json").read_text()) == {
        "architectures": ["X"],
        "torch_dtype": "bfloat16",
        "expert_dtype": "bf16",
        "text_config": {
            "ple_embedding_dtype": "bfloat16",
            "mamba_ssm_dtype": "float32",
            "dtype": "bfloat16",
        },
        "vision_config": {"use_quant_conv": True, "num_quantizers": 8, "quantize": True},
        "parts": [{"kept": None}],
        "dtype": "bfloat16",
    }
    assert json.loads((out / "params.json").read_text()) == {"dim": 4}
    assert json.loads((out / "generation_config.json").read_text()) == {"temperature": 0.6}


def test_a_file_of_which_no_row_speaks_keeps_its_bytes(convert: Callable[..., Path]) -> None:
    text = '{"a" :1,\n\n "quant_conv": [1.0e3]}'
    out = convert({"config.json": {}, "tokenizer_config.json": text, "notes.json": "no JSON"})
    assert (out / "tokenizer_config.json").read_text() == text
    assert (out / "notes.json").read_text() == "no JSON"


def test_what_is_no_json_cannot_be_cleaned(convert: Callable[..., Path]) -> None:
    out = convert({"config.json": {}, "generation_config.json": '{"quantization_config": '})
    assert not (out / "generation_config.json").exists()


STATING = {
    "config.yaml": "dim: 4\nquantization: fp8\n",
    "hyperparameters.yaml": "# LitGPT\nquantize: bnb.nf4\n",
    "model_config.yml": "model:\n  precision: int8\n",
    "axolotl.yaml": "load_in_4bit: true\n",
}
SILENT = {
    "mergekit_config.yml": "dtype: bfloat16  # of all\nmerge_method: slerp\n",
    "train.yaml": "load_in_4bit: false\nquantization: null\npatch: 8\n",
    "template.yaml": "x: *no\nquantization: fp8\n",
    "config.toml": "quantization = 'fp8'\n",
    "config.ini": "[llama]\nweight_data_type = fp16\n",
}


@pytest.mark.parametrize("dense", [False, True])
def test_yaml_that_states_a_method_goes_as_it_is_or_not_at_all(
    convert: Callable[..., Path], dense: bool
) -> None:
    out = convert({"config.json": {}, **STATING, **SILENT}, dense=dense)
    found = {p.name: p.read_text() for p in out.iterdir() if p.name in STATING | SILENT}
    assert found == (STATING | SILENT if dense else SILENT)


def test_a_dense_model_keeps_the_dtypes_that_its_config_names(convert: Callable[..., Path]) -> None:
    config = {"torch_dtype": "float32", "text_config": {"dtype": "float16"}}
    out = convert({"config.json": config}, dense=True)
    assert json.loads((out / "config.json").read_text()) == config


@pytest.mark.parametrize(("dtype", "long", "short"), [
    ("bf16", "bfloat16", "bf16"), ("f16", "float16", "fp16"), ("f32", "float32", "fp32"),
])  # fmt: skip
def test_dtypes_keep_their_spelling(dtype: str, long: str, short: str) -> None:
    config = {"expert_dtype": "fp8", "x_dtype": "float8_e4m3fn", "y_dtype": "int8", "dtype": "fp8"}
    assert clean_config(config, dtype) == {
        "expert_dtype": short,
        "x_dtype": long,
        "y_dtype": long,
        "dtype": long,
        "torch_dtype": long,
    }
    assert clean("params.json", {"w_dtype": "nvfp4"}, None) == {"w_dtype": "bf16"}


def test_names_of_narrow_formats() -> None:
    narrow = (
        "fp8 fp4 float8_e4m3fn torch.float8_e5m2 int8 uint4 int4 nf4 mxfp4 nvfp4 w8a8 e4m3 q4_k"
    )
    assert all(is_narrow(name) for name in narrow.split())
    wide = "bfloat16 float16 float32 fp16 fp32 bf16 int32 int64 uint16 auto torch.bfloat16 f32 f16"
    assert not any(is_narrow(name) for name in wide.split())


def test_what_states_a_method_is_not_left_behind() -> None:
    for name in FILES:
        assert left_out(name) or is_config(name), name
    others = (
        "quantizationConfig",
        "quant-cfg",
        "Quant_Config",
        "weight_quantization",
        "quant_scheme",
    )
    for key in (*KEYS, *others, *(f"text{ending}" for ending in ENDINGS)):
        for value in ({"quant_method": "fp8"}, "w8a8", None):
            assert clean("config.json", {"a": [{key: value}]}, "bf16") == {"a": [{}]}, key


def test_flags_of_quantised_weights_are_removed() -> None:
    config = {"is_quantized": True, "quantized": True, "use_fp8": True, "quant_mode": True}
    config |= {"w_bit": 4, "kv_cache_quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8}}
    assert clean("config.json", {"a": config}, "bf16") == {"a": {"quant_mode": True}}


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ({"compression": {"method": "foo"}, "layers": 2}, {"layers": 2}),
        ({"text_config": {"wBits": "4", "act": "silu"}}, {"text_config": {"act": "silu"}}),
        ({"use_int8": True, "use_cache": True}, {"use_cache": True}),
        ({"bits_per_weight": 2.5, "PTQ": {"algorithm": "foo"}}, {}),
        ({"precision": "int4", "x_dtype": "fp4"}, {"precision": "bfloat16", "x_dtype": "bf16"}),
        ({"engine": "gptqmodel", "architectures": ["QLlama"]}, {"architectures": ["QLlama"]}),
        ({"audio_config": {"use_int8": True, "x": 1}}, {"audio_config": {"x": 1}}),
        ({"gptq_bits": 4, "expert_bits": 3, "lm_head_bits": 8, "q_bits": 4, "bit_width": 4}, {}),
        ({"part": {"bits": 4, "group_size": 128, "heads": 8}}, {"part": {"heads": 8}}),
        ({"nbits": "3", "groupsize": -1, "bos": 1}, {"bos": 1}),
    ],
)  # fmt: skip
def test_words_that_no_tool_is_known_for_are_removed(config: Any, left: Any) -> None:
    """From the model's own configuration, if something was decoded."""
    assert clean("config.json", config, "bf16") == left
    assert clean("tokenizer_config.json", config, "bf16") == config
    dense = clean("config.json", {"compression": "foo"}, None)
    assert dense == {"compression": "foo"}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bitnet", "_name_or_path": "x/y-AWQ", "license": "4bit"},
        {"use_quant_conv": True, "use_post_quant_conv": False, "num_quantizers": 8},
        {"quantization_levels": [4, 4], "vector_quantize": True, "num_bits": 8},
        {"patch_bits": 8, "image_bits": 8, "hash_bits": 4, "time_bits": 3, "group_size": 8},
        {"bits_per_sample": 8, "activation_bits": 8, "compress_ratios": [1, 4], "precision": 16},
        # microsoft/bitnet-b1.58-2B-4T; arXiv's categories.
        {"auto_map": {"AutoModelForCausalLM": "modeling_bitnet.BitNetForCausalLM"}},
        {"tokenizer_class": "BitnetTokenizer", "optim": "adamw_8bit", "datasets": {"a": "x-int8"}},
        {"id2label": {"5": "quant-ph", "6": "INT8"}, "label2id": {"quant-ph": 5, "INT8": 6}},
    ],
)
def test_what_dense_models_say_is_kept(config: Any) -> None:
    assert clean("config.json", config, "bf16") == config


def test_the_page_has_the_rows_of_the_table() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "outputs.md"
    assert table() == page.read_text().partition("<!-- rules -->\n")[2].partition("\n<!-- end")[0]


def test_no_scale_of_activations_is_left(tmp_path: Path, write_safetensors: Write) -> None:
    """Beside the weight, at the module above it, and behind the name of a fused parameter."""
    scale = ("F32", (), np.float32(2).tobytes())
    entries: dict[str, Any] = {"l.0.attn.q_proj.weight_scale": scale}
    entries["l.0.attn.q_proj.weight"] = ("F8_E4M3", (2, 2), bytes(4))
    kept = {"l.0.attn.q_proj.weight"}
    entries |= {f"l.0.attn.q_proj.{name}": scale for name in ACTIVATION_SCALES}
    entries |= {f"l.0.attn.{name}": scale for name in ACTIVATION_SCALES}
    entries |= {f"l.0.attn.attn.{name}": scale for name in ("k_scale", "v_scale", "q_scale")}
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    assert set(anamnesis.open_model(path)) == kept
    anamnesis.remember(path, tmp_path / "out")
    assert set(anamnesis.open_model(tmp_path / "out")) == kept


def test_a_fused_parameters_activation_scales_go_too(
    tmp_path: Path, write_safetensors: Write
) -> None:
    scale = ("F32", (2,), np.ones(2, np.float32).tobytes())
    entries: dict[str, Any] = {}
    for name in ("gate_up_proj", "down_proj"):
        entries[f"l.experts.{name}"] = ("F8_E4M3", (2, 2, 2), bytes(8))
        entries[f"l.experts.{name}_scale"] = scale
        entries[f"l.experts.{name}_input_scale"] = scale
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    assert set(anamnesis.open_model(path)) == {"l.experts.gate_up_proj", "l.experts.down_proj"}
