"""Every setting of every class in transformers: a GGUF says it, its tensors do, or a remark would.

What is left over, `NOT_COMPUTED`, changes nothing that a model computes when it is used: chances of
training, caches, ids, towers, and what has its twin under another name.
"""

from __future__ import annotations

from typing import Any

import pytest

from anamnesis.names.config_rows import CLASSES
from anamnesis.names.defaults import where_not_said
from anamnesis.names.families import families
from anamnesis.names.gguf_config import WRITTEN, architecture_values, keys_of, values_of
from anamnesis.names.settings import Settings
from anamnesis.names.taken import taken

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

# Of transformers, under other names.
RENAMED = {
    "LLaMAForCausalLM": "LlamaForCausalLM",
    "MPTForCausalLM": "MptForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
}
# Told by tensors: by those that are there, and by their shapes.
TENSORS = """
attention_bias attention_k_eq_v attention_out_bias bias conv_bias decoder_sparse_step
enable_moe_block expert_layer_offset expert_layer_period laurel_rank learned_pos_emb lm_head_bias
mamba_conv_bias mamba_proj_bias multi_query mlp_bias mlp_layer_types mlp_only_layers
moe_layer_end_index moe_layers new_decoder_architecture no_bias norm_bias num_ln_in_parallel_attn
projectors_bias qk_layernorm qkv_bias sinusoidal_pos_embds tie_word_embeddings use_bias
use_conv_bias use_expert_bias use_qkv_bias vocab_size vocab_size_per_layer_input
""".split()
# Multiplied into tensors.
MULTIPLIED = """
attention_in_multiplier attention_out_multiplier embedding_multiplier key_multiplier
lm_head_multiplier mlp_multipliers ssm_in_multiplier ssm_multipliers ssm_out_multiplier
""".split()
NOT_COMPUTED = """
_pad_token_id _sliding_window_pattern add_cross_attention altup_coef_clip altup_correct_scale
attention_dropout attention_probs_dropout_prob attention_softmax_in_fp32 attn_pdrop
audio_soft_tokens_per_image chunk_size classifier_activation classifier_bias classifier_dropout
classifier_pooling decoder_bias dense_act_fn deterministic_flash_attn downsample_factor dropout
dropout_rate emb_pdrop embd_pdrop embedding_dropout embedding_fraction embedding_initializer_range
eod_token_id expand ffn_hidden_size full_attn_idxs global_attn_every_n_layers hidden_dropout
hidden_dropout_prob im_end_id im_newline_id im_start_id image_seq_length indexer_types init_device
is_decoder initializer_cutoff_factor initializer_factor initializer_range input_jitter_noise
intermediate_size is_gated_act layer_types linear_conv_kernel_dim linear_head_dim linear_num_heads
mamba_chunk_size mamba_d_head mamba_expand mamba_n_heads mamba_rms_norm mamba_ssm_cache_dtype
max_position_embeddings max_window_layers mlp_dropout mm_tokens_per_image moe_norm_min
moe_shared_expert_overlap mtp_layer_types mtp_layers_block_type mtp_mlp_layer_types
multimodal_projector_bias no_rope_layer_interval norm_type num_decoder_layers num_expert_group
num_heads num_key_value_heads num_logits_to_keep num_nextn_predict_layers
original_max_position_embeddings output_router_logits position_embedding_type
prefix_dense_sliding_window_pattern pretraining_tp projector_bias projector_hidden_act
projector_hidden_size projector_use_layernorm qa_dropout qk_head_dim reorder_and_upcast_attn
rescale_prenorm_residual resid_pdrop residual_dropout residual_in_fp32 rope_parameters rope_scaling
rope_theta router_aux_loss_coef router_jitter_noise scale_attention_softmax_in_fp32
scale_decoder_outputs scale_factor seq_classif_dropout sliding_window sliding_window_pattern
slow_but_exact sparse_pred_ignore_index sparse_prediction spatial_merge_size summary_activation
summary_first_dropout summary_proj_to_labels summary_type summary_use_proj time_step_floor
time_step_init_scheme time_step_max time_step_min time_step_rank time_step_scale
token_classification_bias use_associative_scan use_cache use_mamba_kernels use_mambapy use_qk_norm
use_sliding_window v_head_dim vision_feature_layer vision_feature_select_strategy
vision_soft_tokens_per_image z_loss_coefficient
""".split()
ENDS = ("_token_id", "_token_index")  # the vocabulary has them


class Heard(dict[str, Any]):
    """Settings, and those that somebody asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


THERE = [name for name in WRITTEN if hasattr(transformers, RENAMED.get(name, name))]


def defaults(name: str) -> dict[str, Any]:
    """The class's configuration, its text model's block in one level with the rest."""
    found = getattr(transformers, RENAMED.get(name, name)).config_class().to_dict()
    text = found.get("text_config")
    towers = ("text_config", "vision_config", "audio_config")
    plain = {key: value for key, value in found.items() if key not in towers}
    return plain | (text if isinstance(text, dict) else {})


@pytest.mark.parametrize("name", THERE)
def test_every_setting_is_looked_at(name: str) -> None:
    said = defaults(name)
    family = next(f for f in families() if name in f.architectures)
    settings = Settings(said)
    heard = Heard(settings.values)
    settings.values = heard
    made = values_of(keys_of(name, "").sources, settings, "")
    metadata = {f"{family.gguf[0]}.{key}": value.value for key, value in made.items()}
    list(taken(settings, metadata, family.gguf[0], frozenset()))
    usual = transformers.PretrainedConfig().to_dict().keys()
    known = {*heard.asked, *TENSORS, *MULTIPLIED, *NOT_COMPUTED, *usual}
    assert [key for key in said if key not in known and not key.endswith(ENDS)] == []


# What llama.cpp takes where a file does not say.
UNSAID = {
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "num_dense_layers": 0,
}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_defaults_that_differ_from_llama_cpp_s_are_said(name: str) -> None:
    row = CLASSES[name]
    cls = getattr(transformers, RENAMED.get(name, row.same_as or name), None)
    if cls is None:
        pytest.skip(f"transformers has no {name}")
    usual = cls.config_class().to_dict()
    config = {"model_type": row.model_type, "hidden_size": 12, "num_attention_heads": 3}
    found = where_not_said(config)
    expected = UNSAID | {"num_key_value_heads": 3, "head_dim": 4}
    latent = "kv_lora_rank" in usual  # widths and heads follow from other sizes there
    for key, value in expected.items():
        own = usual.get(key)
        if key in row.sources and own is not None and own != value:
            derived = key in ("num_key_value_heads", "head_dim") and (
                latent or row.sources[key] == "attention.head_count" or key in row.constants
            )
            assert derived or found.get(key) == value or changed(name, key), key
    base = (usual.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    if base != 10000.0 and "rope_theta" in row.sources:
        assert found.get("rope_theta") == 10000.0 or changed(name, "rope_theta")


# Where nothing is said, transformers makes it of the heads and the hidden size.
_LLAMA = ("LlamaForCausalLM", "XverseForCausalLM")


def changed(name: str, key: str) -> bool:
    """Whether a class's changes say it anyway."""
    by_changes = {
        "head_dim": (*_LLAMA, "Glm4vForConditionalGeneration", "GlmForCausalLM", "NomicBertModel"),
        "num_key_value_heads": (*_LLAMA, "GPTBigCodeForCausalLM", "PhiForCausalLM"),
        "rope_theta": ("Ministral3ForCausalLM",),
    }
    return not {name, CLASSES[name].same_as}.isdisjoint(by_changes.get(key, ()))


def test_values_of_a_class_are_made_of_its_defaults() -> None:
    for name in ("LlamaForCausalLM", "Qwen3MoeForCausalLM"):
        assert architecture_values(keys_of(name, ""), "llama", defaults(name), "")
