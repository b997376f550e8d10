"""What a model folder says beside the tensors: made with the `gguf` package, read as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import finish
from safetensors.numpy import load_file
from towers import numbers, write

import anamnesis
from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.names.config_rows import CLASSES
from anamnesis.names.families import families
from anamnesis.names.folder import describe
from anamnesis.names.gguf_config import architecture_values
from anamnesis.names.keys import described
from anamnesis.names.open import open_named
from anamnesis.readers.schemes.base import Options

gguf = pytest.importorskip("gguf")


def notes(path: Path) -> str:
    """What a conversion to a folder remarks."""
    model = open_named(str(path), Options(names="hf"))
    return "\n".join((*model.notes, *describe(model, "bf16", Limits())[1]))


def test_numbers_of_an_activation_are_tensors_again(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "xielu.alpha_n": [0.25, 0.5],
        "xielu.alpha_p": [0.75, 1.5],
        "xielu.beta": [0.5, 0.5],
        "xielu.eps": [-1e-6, -1e-6],
    }
    keys = {"apertus.block_count": 2, "tokenizer.ggml.tokens": ["a"] * 3000, **arrays}
    tensors = {f"blk.{i}.ffn_up.weight": numbers(4, 8) for i in range(2)}
    source = write(tmp_path / "m.gguf", "apertus", keys, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for key, stored in arrays.items():
        for layer, number in enumerate(stored):
            made = found[f"model.layers.{layer}.mlp.act_fn.{key.partition('.')[2]}"]
            assert made.shape == ((1,) if "alpha" in key else ())
            assert made == np.float32(number)
    keys["xielu.beta"] = [0.5]
    source = write(tmp_path / "short.gguf", "apertus", keys, tensors)
    with pytest.raises(FormatError, match=r"short\.gguf: xielu\.beta: 1 items .* must have 2"):
        anamnesis.convert(source, tmp_path / "no", to="hf")


@pytest.mark.parametrize(
    ("words", "name"), [("gpt2", "RobertaModel"), ("t5", "XLMRobertaModel"), ("bert", "BertModel")]
)
def test_positions_of_padding_are_zero(words: str, name: str, tmp_path: Path) -> None:
    stored = numbers(10, 6)
    keys = {"tokenizer.ggml.model": words, "bert.context_length": 10}
    tensors = {"position_embd.weight": stored, "token_types.weight": numbers(1, 6)}
    source = write(tmp_path / "m.gguf", "bert", keys, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf")
    found = load_file(tmp_path / "out" / "model.safetensors")
    rows = found["embeddings.position_embeddings.weight"]
    before = 0 if words == "bert" else 2
    assert np.array_equal(rows[before:], stored)
    assert not rows[:before].any()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [name]
    assert config["max_position_embeddings"] == len(rows) == 10 + before
    assert config["pad_token_id"] == (1 if before else None)
    assert f"{name}: a GGUF does not have pooler" in notes(source)
    assert ("position_embeddings.weight are zero" in notes(source)) == bool(before)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("minicpm", "transformers has no MiniCPMForCausalLM; GraniteForCausalLM computes"),
        ("orion", "transformers has no OrionForCausalLM; it needs the model's own code"),
        ("smollm3", "a GGUF does not say which layers have no rotary embeddings"),
    ],
)
def test_what_a_file_does_not_say_is_a_note(
    architecture: str, expected: str, tmp_path: Path
) -> None:
    keys = {
        f"{architecture}.{key}": value
        for key, value in {"embedding_length": 8, "attention.head_count": 2}.items()
    }
    tensors = {"blk.0.ffn_norm.weight": numbers(8)}
    source = write(tmp_path / "m.gguf", architecture, keys, tensors)
    assert expected in notes(source)


def test_a_turn_ends_a_text_too(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.eot_token_id": 5}
    source = write(tmp_path / "m.gguf", "llama", keys, {"output_norm.weight": numbers(8)})
    anamnesis.convert(source, tmp_path / "out", to="hf")
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert found["eos_token_id"] == [3, 5]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 3


def test_first_classes_are_described() -> None:
    read = {f.architectures[0] for f in families() if f.only != "to-gguf"}
    assert read <= CLASSES.keys()
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("name", "bias", "key"),
    [
        ("cohere2", "blk.0.attn_q.bias", "attention_bias"),
        ("deepseek2", "blk.0.attn_kv_a_mqa.bias", "attention_bias"),
        ("gemma2", "blk.0.attn_output.bias", "attention_bias"),
        ("lfm2", "blk.0.shortconv.conv.bias", "conv_bias"),
        ("mamba", "blk.0.ssm_in.bias", "use_bias"),
        ("modern-bert", "blk.0.attn_norm.bias", "norm_bias"),
        ("modern-bert", "blk.0.attn_qkv.bias", "attention_bias"),
        ("seed_oss", "blk.0.ffn_up.bias", "mlp_bias"),
    ],
)
def test_biases_of_a_file_are_those_of_its_configuration(
    name: str, bias: str, key: str, tmp_path: Path
) -> None:
    for has in (False, True):
        keys = {f"{name}.embedding_length": 8, f"{name}.attention.head_count": 2}
        tensors = {"blk.0.ffn_up.weight": numbers(8, 8)}
        tensors |= {bias: numbers(8)} if has else {}
        if name == "mamba":
            tensors = {"blk.0.ssm_in.weight": numbers(8, 8), **({bias: numbers(8)} if has else {})}
        source = write(tmp_path / f"{has}.gguf", name, keys, tensors)
        model = open_named(str(source), Options(names="hf"))
        config = json.loads(describe(model, "bf16", Limits())[0]["config.json"])
        assert bool(config.get(key)) is has


@pytest.mark.parametrize("rotary", [60, 88])
@pytest.mark.parametrize(
    "name", "glm4 glm4moe gptneox nemotron phi2 qwen35 qwen35moe qwen3next stablelm".split()
)
def test_the_share_of_a_head_that_turns_is_the_file_s(
    name: str, rotary: int, tmp_path: Path
) -> None:
    """Classes that would turn a part where the configuration says nothing, and an odd share."""
    keys: dict[str, Any] = {f"{name}.embedding_length": 176, f"{name}.attention.head_count": 2}
    keys |= {f"{name}.attention.key_length": 88, f"{name}.rope.dimension_count": rotary}
    keys |= {"tokenizer.ggml.pre": "glm4", f"{name}.block_count": 1}
    tensors = {"blk.0.attn_output.weight": numbers(8, 8)}
    source = write(tmp_path / "m.gguf", name, keys, tensors)
    model = open_named(str(source), Options(names="hf"))
    config = json.loads(describe(model, "bf16", Limits())[0]["config.json"])
    assert int(88 * config["partial_rotary_factor"]) == rotary
    if name == "gptneox":
        assert config["rotary_pct"] == config["partial_rotary_factor"]


@pytest.mark.parametrize(
    ("words", "tensors", "expected"),
    [
        ("solar-open", ["attn_q.weight", "attn_q.bias"], "SolarOpenForCausalLM"),
        ("solar-open", ["attn_q.weight"], "SolarOpenForCausalLM"),
        ("glm4", ["attn_q.weight"], "Glm4MoeForCausalLM"),
        ("default", ["attn_q.weight", "attn_q.bias"], "Glm4MoeForCausalLM"),
        ("default", ["attn_q.weight", "attn_q_norm.weight"], "Glm4MoeForCausalLM"),
        ("default", ["attn_q.weight"], "SolarOpenForCausalLM"),
    ],
)
def test_solar_open_is_told_from_glm_by_its_vocabulary(
    words: str, tensors: list[str], expected: str, tmp_path: Path
) -> None:
    """Both are the architecture `glm4moe`; layers are asked where the vocabulary is no help."""
    keys = {"tokenizer.ggml.pre": words, "glm4moe.attention.head_count": 2}
    keys |= {"glm4moe.embedding_length": 8, "glm4moe.rope.dimension_count": 2}
    arrays = {f"blk.0.{name}": numbers(8, 8) for name in tensors}
    write(tmp_path / "model.gguf", "glm4moe", keys, arrays)
    anamnesis.convert(tmp_path / "model.gguf", tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [expected]
    assert config.get("attention_bias", False) is ("attn_q.bias" in tensors)


@pytest.mark.parametrize("name", ["chatglm", "gemma3n", "jamba", "kimi-linear", "minicpm"])
def test_a_file_that_says_nothing_has_no_configuration(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "model.gguf", name, {}, {"output_norm.weight": numbers(4)})
    with pytest.raises(FormatError, match=r"can be made of its key/values and tensors: KeyError"):
        anamnesis.convert(source, tmp_path / "hf", to="hf")


@pytest.mark.parametrize(("factors", "expected"), [([3.25, 1], True), ([1, 1], False)])
def test_factors_of_no_known_scaling_are_named(
    factors: list[float], expected: bool, tmp_path: Path
) -> None:
    keys = {"llama.embedding_length": 8, "llama.rope.freq_base": 10000}
    tensors = {"output_norm.weight": numbers(8), "rope_freqs.weight": np.float32(factors)}
    source = write(tmp_path / "model.gguf", "llama", keys, tensors)
    assert ("rope_freqs.weight is of no scaling known here" in notes(source)) is expected


def test_heads_of_keys_of_phi_are_those_of_its_tensors(tmp_path: Path) -> None:
    """The converter writes as many as there are heads; llama.cpp takes no such file."""
    keys = {"embedding_length": 8, "attention.head_count": 4, "attention.head_count_kv": 4}
    tensors = {"blk.0.attn_q.weight": numbers(8, 8), "blk.0.attn_k.weight": numbers(4, 8)}
    named = {f"phi2.{key}": value for key, value in keys.items()}
    source = write(tmp_path / "model.gguf", "phi2", named, tensors)
    anamnesis.convert(source, tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    config |= {"num_hidden_layers": 1}
    made = architecture_values(described()["PhiForCausalLM"], "phi2", config, "config.json")
    assert made["phi2.attention.head_count_kv"].value == 2


@pytest.mark.parametrize(
    ("name", "rope", "expected"),
    [
        ("Glm4ForCausalLM", {"mrope_section": [2, 1, 1]}, None),
        ("Glm4vForConditionalGeneration", {"mrope_section": [2, 1, 1]}, [2, 1, 1, 0]),
        ("Glm4vForConditionalGeneration", {}, [8, 12, 12, 0]),  # transformers' own default
    ],
)
def test_sections_of_glm_go_with_rearranged_queries(
    name: str, rope: dict[str, Any], expected: list[int] | None
) -> None:
    """Those of Glm4v alone are: a file of the other that had sections would be read wrong."""
    config = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    made = architecture_values(described()[name], "glm4", config | {"rope_parameters": rope}, "")
    found = made.get("glm4.rope.dimension_sections")
    assert (found.value if found else None) == expected


def test_a_part_of_a_head_that_the_file_does_not_say_is_not_guessed(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"attention.head_count": 2, "rope.dimension_sections": [2, 1, 1, 0]}
    named = {f"glm4.{key}": value for key, value in keys.items()}
    source = write(tmp_path / "model.gguf", "glm4", named, {"blk.0.attn_q.weight": numbers(8, 8)})
    with pytest.raises(FormatError, match=r"does not say: glm4\.rope\.dimension_count;"):
        open_named(str(source), Options(names="hf"))


@pytest.mark.parametrize("count", [-4, float("inf"), float("nan"), 2.5])
def test_heads_of_no_number_are_not_guessed(count: float, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
    add = writer.add_int32 if isinstance(count, int) else writer.add_float32
    add("llama.attention.head_count", count)
    writer.add_tensor("blk.0.attn_q.weight", numbers(64, 8))
    finish(writer)
    with pytest.raises(FormatError, match=r"does not say: llama\.attention\.head_count;"):
        open_named(str(tmp_path / "model.gguf"), Options(names="hf"))


def test_factors_for_long_texts_of_minicpm_are_its_scaling(tmp_path: Path) -> None:
    keys = {"minicpm.embedding_length": 8, "minicpm.attention.head_count": 2}
    tensors = {f"rope_factors_{kind}.weight": numbers(2) for kind in ("long", "short")}
    tensors["output_norm.weight"] = numbers(8)
    source = write(tmp_path / "model.gguf", "minicpm", keys, tensors)
    anamnesis.convert(source, tmp_path / "hf", to="hf")
    scaling = json.loads((tmp_path / "hf" / "config.json").read_text())["rope_scaling"]
    assert scaling["rope_type"] == "longrope"
    assert np.array_equal(np.float32(scaling["long_factor"]), numbers(2))


SAID: dict[str, tuple[dict[str, Any], Any]] = {
    "no type": ({"factor": 4}, ("linear", 4)),
    "old name": ({"../scale_linear": 2}, ("linear", 2)),
    "none": ({"type": "none", "factor": 4}, None),
    "yarn": ({"type": "yarn", "factor": 4, "yarn_attn_factor": 2}, ("yarn", 4, 2)),
}


@pytest.mark.parametrize("case", SAID)
def test_scaling_is_read_as_llama_cpp_reads_it(case: str, tmp_path: Path) -> None:
    said, expected = SAID[case]
    keys = {f"llama.rope.scaling.{key}".replace("scaling.../", ""): v for key, v in said.items()}
    source = write(tmp_path / "m.gguf", "llama", keys, {"output_norm.weight": numbers(8)})
    model = open_named(str(source), Options(names="hf"))
    files, remarks = describe(model, "bf16", Limits())
    found = json.loads(files["config.json"]).get("rope_scaling")
    assert (found and tuple(found.values())) == expected
    assert not any("config.json" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("name", "keys", "remark"),
    [
        ("llama", {"attention.scale": 2}, "llama.attention.scale = 2"),
        ("llama", {"attention.clamp_kqv": 8, "logit_scale": 3}, "clamp_kqv = 8, llama.logit_scale"),
        ("llama", {"attention.causal": False}, "llama.attention.causal = False"),
        ("llama", {"rope.scaling.type": "longrope"}, "rope scaling 'longrope' is not known"),
        ("llama", {"rope.scaling.attn_factor": 2}, "llama.rope.scaling.attn_factor = 2"),
        ("gpt2", {"attention.causal": False}, "gpt2.attention.causal = False"),
        ("llama", {"logit_scale": 1, "attention.clamp_kqv": 0, "attention.causal": True}, ""),
        ("bert", {"attention.causal": False}, ""),
        ("command-r", {"logit_scale": 3}, ""),
    ],
)
def test_what_a_class_has_no_setting_for_is_a_note(
    name: str, keys: dict[str, Any], remark: str, tmp_path: Path
) -> None:
    """llama.cpp computes with it, and transformers would not."""
    tensors = {"token_embd.weight": numbers(8, 8)}
    source = write(
        tmp_path / "m.gguf", name, {f"{name}.{key}": v for key, v in keys.items()}, tensors
    )
    found = notes(source)
    assert remark in found
    assert ("llama.cpp computes" in found or "is not known here" in found) is bool(remark)


LAYERS = [f"blk.{layer}.{name}.weight" for layer in range(3) for name in ("attn_norm", "ffn_norm")]


@pytest.mark.parametrize(
    ("name", "count", "without", "remark"),
    [
        ("llama", 3, "", ""),
        ("llama", 4, "", "llama.block_count is 4; there are 3 layers, up to blk.2"),
        ("llama", 3, "blk.1.", "llama.block_count is 3; there are 2 layers, up to blk.2"),
        ("llama", 3, "blk.1.ffn", "blk.1.ffn_norm.weight missing, which other layers"),
        ("modern-bert", 3, "blk.0.attn", ""),
    ],
)
def test_half_of_a_model_is_a_note(
    name: str, count: int, without: str, remark: str, tmp_path: Path
) -> None:
    other = "ffn_norm" if name == "llama" else "ffn_down"
    names = [n.replace("ffn_norm", other) for n in LAYERS]
    tensors = {n: numbers(8) for n in names if not (without and n.startswith(without))}
    source = write(tmp_path / "m.gguf", name, {f"{name}.block_count": count}, tensors)
    found = "\n".join(open_named(str(source), Options(names="hf")).notes)
    assert remark in found
    assert ("layers" in found) is bool(remark)


def test_tokens_beyond_the_embeddings_and_words_without_merges_are_notes(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    words = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [*"abcdefghij"]}
    source = write(tmp_path / "m.gguf", "llama", words, {"token_embd.weight": numbers(8, 8)})
    found = notes(source)
    assert "10 tokens, and token_embd.weight 8 rows" in found
    assert "no tokenizer.json was written: the file lists no merges" in found


def test_factors_of_one_scale_nothing(tmp_path: Path) -> None:
    tensors = {"rope_freqs.weight": np.ones(8, np.float32), "output_norm.weight": numbers(8)}
    source = write(tmp_path / "m.gguf", "llama", {"llama.rope.freq_base": 10000}, tensors)
    model = open_named(str(source), Options(names="hf"))
    assert "rope_scaling" not in json.loads(describe(model, "bf16", Limits())[0]["config.json"])
