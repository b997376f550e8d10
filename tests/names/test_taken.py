"""What `config.json` says and a GGUF cannot: a remark names it, or the file says it after all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_shapes import config
from llama_folder import add_tokenizer
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names import taken as table
from anamnesis.names.gguf_config import WRITTEN, architecture_values, keys_of
from anamnesis.names.settings import Settings
from anamnesis.names.taken import taken

gguf = pytest.importorskip("gguf")


def remarks(architecture: str, names: tuple[str, ...] = (), **said: Any) -> str:
    """The remarks on a configuration whose file has no keys."""
    return "\n".join(taken(Settings(said), {}, architecture, frozenset(names)))


@pytest.mark.parametrize("architecture", sorted(table.ALLOWED))
def test_every_row_is_a_remark_where_another_value_stands(architecture: str) -> None:
    for key, allowed in table.ALLOWED[architecture].items():
        *blocks, last = key.split(".")

        def said(value: Any, blocks: list[str] = blocks, last: str = last) -> dict[str, Any]:
            inner: Any = {last: value}
            for name in reversed(blocks):
                inner = {name: inner}
            return dict(inner)

        for value in allowed:
            assert remarks(architecture, **said(value)) == ""
        found = remarks(architecture, **said("something else"))
        assert f'{key} = "something else" (llama.cpp takes' in found


@pytest.mark.parametrize(
    ("architecture", "right", "wrong"),
    [
        ("llama", "silu", "gelu"),
        ("gemma2", "gelu_pytorch_tanh", "silu"),
        ("nemotron", "relu2", "relu"),
        ("apertus", "xielu", "silu"),
    ],
)
def test_feed_forward_functions_are_the_architecture_s(
    architecture: str, right: str, wrong: str
) -> None:
    assert remarks(architecture, hidden_act=right) == ""
    assert f'hidden_act = "{wrong}" (llama.cpp takes' in remarks(architecture, hidden_act=wrong)


@pytest.mark.parametrize(
    ("architecture", "said", "expected"),
    [
        ("llama", {"sliding_window": 64}, "sliding_window = 64 (llama.cpp looks at everything)"),
        ("llama", {"sliding_window": 64, "use_sliding_window": False}, ""),
        ("llama", {"sliding_window": 64, "max_position_embeddings": 64}, ""),
        ("qwen2", {"sliding_window": 64, "layer_types": ["full_attention"]}, ""),
        ("gemma2", {"query_pre_attn_scalar": 9, "head_dim": 8}, "query_pre_attn_scalar = 9"),
        ("smollm3", {"no_rope_layers": [1, 0], "num_hidden_layers": 2}, "no_rope_layers = [1, 0]"),
        ("smollm3", {"no_rope_layers": [1, 1], "num_hidden_layers": 2}, ""),
        (
            "falcon-h1",
            {"lm_head_multiplier": 0.5, "embedding_multiplier": 4.0, "tie_word_embeddings": True},
            "lm_head_multiplier = 0.5 (llama.cpp takes 4.0)",
        ),
        ("falcon-h1", {"lm_head_multiplier": 0.5, "embedding_multiplier": 4.0}, ""),
        ("smallthinker", {"sliding_window_layout": [0, 1], "num_hidden_layers": 2}, ""),
        (
            "smallthinker",
            {"sliding_window_layout": [1, 1], "num_hidden_layers": 2},
            "sliding_window_layout = [1, 1] (llama.cpp takes [0, 1])",
        ),
        ("llama4", {"use_qk_norm": True, "num_local_experts": 128}, "use_qk_norm = true"),
        ("mamba", {"model_type": "mamba", "mixer_rms_eps": 1.0, "layer_norm_epsilon": 2.0}, ""),
        ("granitehybrid", {"layer_types": ["mamba"], "position_embedding_type": "rope"}, '"rope"'),
        ("exaone4", {"sliding_window": 4, "num_hidden_layers": 2}, "sliding_window = 4 (llama.cpp"),
        (
            "exaone4",
            {"sliding_window": 4, "num_hidden_layers": 64},
            "sliding_window = 4 (llama.cpp looks",
        ),
        ("gpt-oss", {"rope_scaling": {"rope_type": "yarn", "truncate": False}}, "truncate = false"),
        (
            "granitehybrid",
            {"model_type": "bamba", "rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor = 0.5 (llama.cpp takes 1.0)",
        ),
        ("granite", {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 8}, "head_dim = 8"),
        ("mamba2", {"time_step_limit": [0.5, 1.0]}, "time_step_limit = [0.5, 1.0]"),
        ("gemma3", {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, '"yarn"'),
    ],
)
def test_rules_that_hang_on_other_settings(
    architecture: str, said: dict[str, Any], expected: str
) -> None:
    found = remarks(architecture, **said)
    assert expected in found
    assert bool(found) == bool(expected)


def test_heads_that_contradict_what_is_said() -> None:
    both = ("output.weight", "token_embd.weight")
    assert "tie_word_embeddings is true" in remarks("llama", both, tie_word_embeddings=True)
    assert remarks("llama", both, tie_word_embeddings=False) == ""
    assert "random numbers" in remarks("llama", both[1:], tie_word_embeddings=False)
    assert remarks("llama", both[1:], tie_word_embeddings=True) == ""


def test_a_folder_says_so_when_it_becomes_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    said = {"architectures": ["LlamaForCausalLM"], "hidden_act": "gelu", "hidden_size": 8}
    said |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(said))
    add_tokenizer(folder, 60, [])
    save_file({"model.embed_tokens.weight": np.ones((60, 8), "f4")}, folder / "model.safetensors")
    made = anamnesis.convert(folder, tmp_path / "m.gguf", to="gguf")
    assert any('hidden_act = "gelu"' in note for note in made.notes)


@pytest.mark.parametrize(("rows", "noted"), [(10, True), (90, False)])
def test_more_tokens_than_rows_are_noted(rows: int, noted: bool, tmp_path: Path) -> None:
    """llama.cpp asks for a row each: a tokenizer that got tokens, and embeddings that did not."""
    folder = tmp_path / "hf"
    folder.mkdir()
    said = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(said))
    add_tokenizer(folder, 60, [])
    embeddings = np.ones((rows, 8), "f4")
    save_file({"model.embed_tokens.weight": embeddings}, folder / "model.safetensors")
    made = anamnesis.convert(folder, tmp_path / "m.gguf", to="gguf")
    found = [note for note in made.notes if "llama.cpp does not load such a file" in note]
    assert bool(found) == noted
    assert all(f"the embeddings have {rows} rows" in note for note in found)


@pytest.mark.parametrize("count", [1 << 31, 1 << 62])
def test_more_layers_than_any_model_has_are_refused_at_once(count: int, tmp_path: Path) -> None:
    """Lists by layer would take all memory."""
    said = {"architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": count}
    said |= {"no_rope_layers": [1], "hidden_size": 8, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(said))
    save_file({"model.norm.weight": np.ones(8, "f4")}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=rf"found {count} layers; allowed: 65536"):
        anamnesis.convert(tmp_path, tmp_path / "m.gguf", to="gguf")


# A class, what it says besides, and what its file says then, as llama.cpp reads it.
SAID = [
    ("FalconForCausalLM", {"rope_theta": 5e5}, {"falcon.rope.freq_base": 5e5}),
    ("FalconForCausalLM", {"rope_theta": 1e4}, {"falcon.rope.freq_base": None}),
    ("PhiForCausalLM", {"intermediate_size": 40}, {"phi2.feed_forward_length": 40}),
    ("GPT2LMHeadModel", {"n_inner": 40}, {"gpt2.feed_forward_length": 40}),
    ("OlmoeForCausalLM", {"rms_norm_eps": 0.5}, {"olmoe.attention.layer_norm_rms_epsilon": 0.5}),
    ("GlmForCausalLM", {"rms_norm_eps": 0.5}, {"chatglm.attention.layer_norm_rms_epsilon": 0.5}),
    (
        "GPTNeoXForCausalLM",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"gptneox.rope.scaling.type": "linear", "gptneox.rope.scaling.factor": 2.0},
    ),
    (
        "Lfm2ForCausalLM",
        {"block_auto_adjust_ff_dim": True, "block_ff_dim": 12288, "block_multiple_of": 256}
        | {"block_ffn_dim_multiplier": 1.0},
        {"lfm2.feed_forward_length": 8192},
    ),
    (
        "Cohere2ForCausalLM",
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4},
        {"cohere2.attention.sliding_window_pattern": [False, True]},
    ),
    (
        "GptOssForCausalLM",
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
        {"gpt-oss.attention.sliding_window_pattern": None},
    ),
    # What folders that transformers saves do not say, and llama.cpp takes nothing for granted of.
    ("DeepseekV3ForCausalLM", {}, {"deepseek2.expert_gating_func": 2}),
    ("Glm4MoeLiteForCausalLM", {}, {"deepseek2.expert_gating_func": 2}),
    ("DeepseekV32ForCausalLM", {}, {"deepseek32.expert_gating_func": 2}),
    ("Dots1ForCausalLM", {}, {"dots1.expert_gating_func": 2}),
    ("ExaoneMoeForCausalLM", {}, {"exaone-moe.expert_gating_func": 2}),
    ("KimiLinearForCausalLM", {}, {"kimi-linear.expert_gating_func": 2}),
    ("MiniMaxM2ForCausalLM", {}, {"minimax-m2.expert_gating_func": 2}),
    (
        "MiniMaxM2ForCausalLM",
        {"scoring_func": "softmax"},
        {"minimax-m2.expert_gating_func": 1},
    ),
    ("SolarOpenForCausalLM", {}, {"glm4moe.rope.dimension_count": 8}),
    ("ModernBertModel", {"norm_eps": 0.5}, {"modern-bert.attention.layer_norm_epsilon": 0.5}),
]


@pytest.mark.parametrize(("name", "said", "expected"), SAID)
def test_what_a_file_can_say_is_said(
    name: str, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert name in WRITTEN
    architecture = next(iter(expected)).partition(".")[0]
    found = architecture_values(keys_of(name, ""), architecture, config(name) | said, "")
    for key, value in expected.items():
        assert (found[key].value if key in found else None) == value


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("LlamaForCausalLM", {"architectures": 1}, "its class, which no architectures"),
        ("LlamaForCausalLM", {"architectures": {"a": 1}}, "its class, which no architectures"),
        ("FalconH1ForCausalLM", {"lm_head_multiplier": "x"}, "lm_head_multiplier: found 'x'"),
    ],
)
def test_settings_of_other_kinds_are_refused(
    name: str, said: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(name) | said))
    save_file({"lm_head.weight": np.ones((8, 32), "f4")}, tmp_path / "model.safetensors")
    with pytest.raises((FormatError, UnsupportedError), match=expected):
        anamnesis.convert(tmp_path, tmp_path / "m.gguf", to="gguf")


@pytest.mark.parametrize(("width", "rotary"), [(None, 4), (24, 12)])
def test_nemotron_s_heads_turn_in_a_part_of_their_own_width(width: Any, rotary: int) -> None:
    settings = {**config("NemotronForCausalLM"), "partial_rotary_factor": 0.5, "head_dim": width}
    keys = keys_of("NemotronForCausalLM", "")
    found = architecture_values(keys, "nemotron", settings, "config.json")
    assert found["nemotron.rope.dimension_count"].value == rotary
