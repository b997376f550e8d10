"""`config.json` out of key/values: transformers' own model comes back and computes the same.

transformers makes a tiny model of each class. Its tensors go to a GGUF by the table of names, with
the key/values that llama.cpp's converter writes for it (conversion/ of
https://github.com/ggml-org/llama.cpp), written out here; the folder made of that GGUF has to load
with no key missing and to give the logits of the first model.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from llama_folder import add_tokenizer

import anamnesis
from anamnesis.names import gguf_config, gguf_view
from anamnesis.names.config_rows import CLASSES
from anamnesis.names.gguf_config import keys_of
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

pytestmark = [
    pytest.mark.oracle,
    # The libraries' own, on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(300),
]
TOKENS = torch.tensor([[5, 9, 44, 33, 7, 18, 2, 50]])
UINT32, FLOAT32, BOOL = 4, 6, 7
HIDDEN, HEADS, KV, VOCAB, CONTEXT = 64, 4, 2, 64, 128


class Case(NamedTuple):
    """A class's settings, its architecture in GGUF, and the key/values that it has there."""

    name: str
    settings: dict[str, Any]
    architecture: str
    values: dict[str, Any]
    factors: tuple[float, ...] = ()  # of `rope_freqs`


USUAL: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
}
USUAL_VALUES: dict[str, Any] = {
    "embedding_length": HIDDEN,
    "feed_forward_length": 96,
    "block_count": 2,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV,
    "context_length": CONTEXT,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 20000.0,
}
BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}}
NARROW = {"head_dim": 16}, {"attention.key_length": 16}
MAMBA2 = {"mamba_d_conv": 4, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_n_heads": 8}
MAMBA2_VALUES: dict[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 8,
    "ssm.inner_size": 2 * HIDDEN,
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
EXPERTS_VALUES = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
GROUPS_VALUES = {"expert_group_count": 1, "expert_group_used_count": 1}
SLIDING = ["sliding_attention", "full_attention"]
WINDOW_VALUES: dict[str, Any] = {
    "attention.sliding_window": 4,
    "attention.sliding_window_pattern": [True, False],
}
TWO_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 20000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
QUARTER = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 20000.0}
T5 = {
    "d_model": HIDDEN,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
T5_VALUES = {
    "embedding_length": HIDDEN,
    "attention.key_length": 16,
    "feed_forward_length": 96,
    "block_count": 2,
    "decoder_block_count": 1,
    "attention.head_count": HEADS,
    "attention.layer_norm_epsilon": 1e-6,
    "attention.relative_buckets_count": 32,
    "decoder_start_token_id": 0,
}

CASES = (
    Case("ApertusForCausalLM", USUAL | BASE, "apertus", USUAL_VALUES),
    Case(
        "BambaForCausalLM",
        USUAL | MAMBA2 | BASE | {"attn_layer_indices": [1], "mamba_expand": 2},
        "granitehybrid",
        USUAL_VALUES | MAMBA2_VALUES | {"attention.head_count_kv": [0, KV]},
    ),
    Case(
        "DbrxForCausalLM",
        {
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": 2,
            "max_seq_len": CONTEXT,
            "attn_config": {"clip_qkv": 8.0, "kv_n_heads": KV, "rope_theta": 20000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
            **BASE,
        },
        "dbrx",
        USUAL_VALUES | EXPERTS_VALUES | {"feed_forward_length": 32, "attention.clamp_kqv": 8.0},
    ),
    Case(
        "Ernie4_5_MoeForCausalLM",
        USUAL
        | BASE
        | {"moe_intermediate_size": 32, "moe_num_experts": 4, "moe_k": 2}
        | {"moe_num_shared_experts": 1, "moe_layer_start_index": 1, "tie_word_embeddings": True},
        "ernie4_5-moe",
        USUAL_VALUES
        | EXPERTS_VALUES
        | {"interleave_moe_layer_step": 1, "leading_dense_block_count": 1}
        | {"expert_shared_count": 1},
    ),
    Case(
        "ExaoneMoeForCausalLM",
        USUAL
        | BASE
        | EXPERTS
        | NARROW[0]
        | {"num_experts": 4, "num_shared_experts": 1, "first_k_dense_replace": 1}
        | {"layer_types": SLIDING, "sliding_window": 4, "routed_scaling_factor": 2.5},
        "exaone-moe",
        USUAL_VALUES
        | EXPERTS_VALUES
        | NARROW[1]
        | GROUPS_VALUES
        | WINDOW_VALUES
        | {"expert_shared_count": 1, "leading_dense_block_count": 1}
        | {"expert_weights_scale": 2.5, "expert_weights_norm": True},
    ),
    Case(
        "Gemma3nForCausalLM",
        USUAL
        | NARROW[0]
        | {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCAB}
        | {"laurel_rank": 8, "num_kv_shared_layers": 0, "layer_types": SLIDING}
        | {"sliding_window": 4, "activation_sparsity_pattern": [0.95, 0.0]}
        | {"rope_parameters": TWO_BASES},
        "gemma3n",
        USUAL_VALUES
        | NARROW[1]
        | WINDOW_VALUES
        | {"feed_forward_length": [96, 96], "rope.freq_base_swa": 500.0}
        | {"final_logit_softcapping": 30.0, "embedding_length_per_layer_input": 16}
        | {"altup.active_idx": 0, "altup.num_inputs": 4, "attention.shared_kv_layers": 0}
        | {"activation_sparsity_scale": [1.6448533535003662, -math.inf]},
    ),
    Case(
        "Gemma4ForCausalLM",
        USUAL
        | NARROW[0]
        | {"global_head_dim": 32, "layer_types": SLIDING, "sliding_window": 4}
        | {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCAB}
        | {"rope_parameters": {**TWO_BASES, "full_attention": QUARTER}},
        "gemma4",
        USUAL_VALUES
        | WINDOW_VALUES
        | {"attention.key_length": 32, "attention.key_length_swa": 16}
        | {"rope.dimension_count": 32, "rope.dimension_count_swa": 16}
        | {"embedding_length_per_layer_input": 16, "attention.shared_kv_layers": 0}
        | {"rope.freq_base_swa": 500.0},
        (*[1.0] * 4, *[1e30] * 12),
    ),
    Case(
        "GraniteMoeHybridForCausalLM",
        USUAL
        | MAMBA2
        | {"mamba_expand": 2, "layer_types": ["linear_attention", "full_attention"]}
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48}
        | {"attention_multiplier": 0.5, "embedding_multiplier": 12.0, "logits_scaling": 6.0}
        | {"residual_multiplier": 0.5, "intermediate_size": 32, "position_embedding_type": "nope"},
        "granitehybrid",
        USUAL_VALUES
        | MAMBA2_VALUES
        | EXPERTS_VALUES
        | {"feed_forward_length": 32, "attention.head_count_kv": [0, 0]}
        | {"attention.scale": 0.5, "embedding_scale": 12.0, "logit_scale": 6.0}
        | {"residual_scale": 0.5, "expert_shared_feed_forward_length": 48}
        | {"rope.scaling.finetuned": False, "rope.dimension_count": 16},
    ),
    Case(
        "JambaForCausalLM",
        USUAL
        | {"num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 2}
        | {"expert_layer_offset": 1, "expert_layer_period": 2, "num_experts": 4}
        | {"mamba_dt_rank": 4, "intermediate_size": 32},
        "jamba",
        USUAL_VALUES
        | EXPERTS_VALUES
        | {"block_count": 4, "attention.head_count_kv": [0, KV, 0, KV], "ssm.conv_kernel": 4}
        | {"ssm.inner_size": 2 * HIDDEN, "ssm.state_size": 16, "ssm.time_step_rank": 4}
        | {"feed_forward_length": 32},
    ),
    Case(
        "Llama4ForCausalLM",
        USUAL
        | BASE
        | NARROW[0]
        | {"num_hidden_layers": 4, "interleave_moe_layer_step": 2, "num_local_experts": 4}
        | {"intermediate_size": 32, "intermediate_size_mlp": 96},
        "llama4",
        USUAL_VALUES
        | NARROW[1]
        | {"block_count": 4, "interleave_moe_layer_step": 2, "expert_count": 4}
        | {"expert_used_count": 1, "expert_feed_forward_length": 32},
    ),
    Case(
        "MellumForCausalLM",
        USUAL
        | NARROW[0]
        | EXPERTS
        | {"num_local_experts": 4, "layer_types": SLIDING, "sliding_window": 4}
        | {"rope_parameters": TWO_BASES},
        "mellum",
        USUAL_VALUES | NARROW[1] | EXPERTS_VALUES | WINDOW_VALUES | {"rope.freq_base_swa": 500.0},
    ),
    Case(
        "MiniCPM3ForCausalLM",
        USUAL
        | {"num_key_value_heads": HEADS, "q_lora_rank": 32, "kv_lora_rank": 16}
        | {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
        | {"tie_word_embeddings": True},
        "minicpm3",
        {k: v for k, v in USUAL_VALUES.items() if k != "rope.freq_base"}
        | {"attention.head_count_kv": HEADS, "attention.q_lora_rank": 32}
        | {"attention.kv_lora_rank": 16, "attention.key_length": 24, "rope.dimension_count": 8},
    ),
    Case(
        "Ministral3ForCausalLM",
        USUAL
        | NARROW[0]
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 20000.0,
                "factor": 16.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "original_max_position_embeddings": 4,
                "llama_4_scaling_beta": 0.1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            }
        },
        "mistral3",
        USUAL_VALUES
        | NARROW[1]
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0}
        | {"rope.scaling.original_context_length": 4, "rope.scaling.yarn_beta_fast": 32.0}
        | {"rope.scaling.yarn_beta_slow": 1.0, "rope.scaling.yarn_log_multiplier": 1.0}
        | {"attention.temperature_scale": 0.1, "rope.dimension_count": 16},
    ),
    Case(
        "ModernBertModel",
        {
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "rope_parameters": TWO_BASES,
        },
        "modern-bert",
        USUAL_VALUES
        | {"attention.sliding_window": 4, "attention.sliding_window_pattern": 2}
        | {"rope.freq_base_swa": 500.0},
    ),
    Case(
        "NemotronHForCausalLM",
        {
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV,
            "head_dim": 16,
            "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"],
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 48,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "ssm_state_size": 16,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "max_position_embeddings": CONTEXT,
        },
        "nemotron_h_moe",
        USUAL_VALUES
        | MAMBA2_VALUES
        | NARROW[1]
        | EXPERTS_VALUES
        | GROUPS_VALUES
        | {"block_count": 4, "attention.head_count_kv": [0, KV, 0, 0]}
        | {"attention.layer_norm_epsilon": 1e-5, "expert_shared_count": 1}
        | {"expert_shared_feed_forward_length": 48, "expert_weights_norm": True}
        | {"expert_weights_scale": 1.0, "feed_forward_length": [0, 0, 32, 96]},
    ),
    Case("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "relu"}, "t5", T5_VALUES),
    Case(
        "SolarOpenForCausalLM",
        USUAL
        | BASE
        | EXPERTS
        | NARROW[0]
        | {"n_routed_experts": 4, "n_shared_experts": 1, "routed_scaling_factor": 2.0},
        "glm4moe",
        USUAL_VALUES
        | NARROW[1]
        | EXPERTS_VALUES
        | GROUPS_VALUES
        | {"rope.dimension_count": 8, "expert_shared_count": 1, "leading_dense_block_count": 0}
        | {"expert_weights_scale": 2.0, "expert_weights_norm": True},
    ),
)


def typed(value: Any) -> KeyValue:
    """A key/value as the converter types it."""
    if isinstance(value, list):
        return KeyValue(ARRAY, value, typed(value[0]).type_id)
    kinds = {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING}
    return KeyValue(kinds[type(value)], value)


def outputs(model: Any) -> Any:
    more = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=TOKENS, **more)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_class_comes_back(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    cls = getattr(transformers, case.name)
    settings = {"vocab_size": VOCAB, "pad_token_id": None, "initializer_range": 0.3}
    config = cls.config_class(**copy.deepcopy(settings | case.settings))  # it changes its blocks
    made = cls(config).eval()
    for name, vector in made.named_parameters():
        if vector.ndim == 1 and "A_log" not in name:  # norms of ones would hide where they go
            vector.data += torch.rand_like(vector) / 4
    made.save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf", 60, [])
    values = {f"{case.architecture}.{key}": typed(value) for key, value in case.values.items()}
    values["general.architecture"] = typed(case.architecture)
    factors = (("rope_freqs.weight", case.factors),) if case.factors else ()
    monkeypatch.setattr(gguf_view, "keys_of", lambda *_: keys_of("LlamaForCausalLM", ""))
    monkeypatch.setattr(gguf_view, "architecture_values", lambda *_: values)
    monkeypatch.setattr(gguf_config, "generated", lambda *_: factors)
    anamnesis.convert(tmp_path / "hf", tmp_path / "m.gguf", to="gguf", dtype="f32")
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "out", to="hf")
    found, report = cls.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    missing = CLASSES[case.name].missing.partition(".")[0]
    assert [k for k in report["missing_keys"] if not missing or missing not in k] == []
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    expected, after = outputs(made), outputs(found.eval())
    assert expected.std() > 0
    if any("A_log" in name for name in made.state_dict()):  # a logarithm is not exact
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(after, expected)
