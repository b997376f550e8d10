"""Classes of mixtures of experts."""

from __future__ import annotations

from anamnesis.names import config_changes as change
from anamnesis.names import config_remote as remote
from anamnesis.names.config_blocks import (
    ATTENTION_BIAS,
    CONV_BIAS,
    CONV_LAYERS,
    EXPERTS,
    GRANITE,
    GROUPS,
    INDEXER,
    LATENT,
    LINEAR,
    LINEAR_LAYERS,
    LOCAL_EXPERTS,
    MAMBA,
    MAMBA2,
    MAMBA_BIASES,
    MOE,
    NEXT,
    PER_LAYER,
    ROUTED,
    SHARED,
    SHORT_CONVOLUTION,
    SPARSE_LAYERS,
    SSM_BIASES,
    WHOLE_HEADS,
)
from anamnesis.names.config_class import ModelClass

_NORMALISED = {"norm_topk_prob": True}
_LING = (
    EXPERTS
    + """
first_k_dense_replace    leading_dense_block_count
norm_topk_prob           expert_weights_norm
num_shared_experts       expert_shared_count
"""
)

MIXTURES: dict[str, ModelClass] = {
    "AfmoeForCausalLM": ModelClass(
        "afmoe",
        EXPERTS
        + GROUPS
        + """
num_shared_experts  expert_shared_count
num_dense_layers    leading_dense_block_count
route_scale         expert_weights_scale
""",
        {"mup_enabled": True},
        changes=(change.sliding_layers,),
        lacks="whether embeddings are scaled: they are, as llama.cpp takes it",
    ),
    "BailingMoeForCausalLM": ModelClass("bailing_moe", _LING, {"norm_head": False}, remote=True),
    "BailingMoeV2ForCausalLM": ModelClass(
        "bailing_moe",
        _LING
        + GROUPS
        + NEXT
        + """
moe_shared_expert_intermediate_size expert_shared_feed_forward_length
routed_scaling_factor    expert_weights_scale
""",
        {"score_function": "sigmoid", "use_qk_norm": True},
        {"moe_router_enable_expert_bias": "exp_probs_b.bias"},
        remote=True,
    ),
    "Cohere2MoeForCausalLM": ModelClass(
        "cohere2_moe",
        """
intermediate_size        expert_feed_forward_length
layer_norm_eps           attention.layer_norm_epsilon
logit_scale              logit_scale
norm_topk_prob           expert_weights_norm
num_experts              expert_count
num_experts_per_tok      expert_used_count
num_shared_experts       expert_shared_count
prefix_dense_intermediate_size feed_forward_length
""",
        kinds=SPARSE_LAYERS,
        changes=(change.sliding_layers, change.cohere2_moe),
    ),
    "DbrxForCausalLM": ModelClass(
        "dbrx",
        """
d_model                      embedding_length
n_heads                      attention.head_count
n_layers                     block_count
max_seq_len                  context_length
attn_config.clip_qkv         attention.clamp_kqv
attn_config.kv_n_heads       attention.head_count_kv
attn_config.rope_theta       rope.freq_base
ffn_config.ffn_hidden_size   feed_forward_length
ffn_config.moe_num_experts   expert_count
ffn_config.moe_top_k         expert_used_count
hidden_size                  -
intermediate_size            -
num_hidden_layers            -
num_attention_heads          -
num_key_value_heads          -
max_position_embeddings      -
""",
    ),
    "DeepseekV2ForCausalLM": ModelClass(
        "deepseek_v2", ROUTED + LATENT, changes=(change.latent, change.latent_scale)
    ),
    "DeepseekV3ForCausalLM": ModelClass(
        "deepseek_v3", ROUTED + LATENT, changes=(change.latent, change.latent_scale)
    ),
    "DeepseekV32ForCausalLM": ModelClass(
        "deepseek_v32",
        ROUTED + LATENT + NEXT + INDEXER,
        changes=(change.latent, change.latent_scale),
    ),
    "Dots1ForCausalLM": ModelClass("dots1", ROUTED),
    "Ernie4_5_MoeForCausalLM": ModelClass(
        "ernie4_5_moe",
        """
moe_num_experts          expert_count
moe_k                    expert_used_count
moe_intermediate_size    expert_feed_forward_length
moe_num_shared_experts   expert_shared_count
moe_layer_start_index    leading_dense_block_count
moe_layer_interval       interleave_moe_layer_step
""",
        biases={"use_bias": "attn_q.bias"},
        changes=(change.ernie_layers,),
    ),
    "ExaoneMoeForCausalLM": ModelClass(
        "exaone_moe",
        EXPERTS
        + GROUPS
        + """
num_shared_experts       expert_shared_count
first_k_dense_replace    leading_dense_block_count
routed_scaling_factor    expert_weights_scale
norm_topk_prob           expert_weights_norm
""",
        kinds=SPARSE_LAYERS,
        changes=(change.sliding_layers,),
    ),
    "Gemma4ForCausalLM": ModelClass(
        "gemma4_text",
        PER_LAYER
        + """
head_dim                 attention.key_length_swa
num_experts              expert_count
top_k_experts            expert_used_count
moe_intermediate_size    expert_feed_forward_length
""",
        changes=(change.sliding_layers, change.gemma4),
    ),
    "Glm4MoeForCausalLM": ModelClass(
        "glm4_moe",
        ROUTED + NEXT,
        WHOLE_HEADS,
        {**ATTENTION_BIAS, "use_qk_norm": "attn_q_norm.weight"},
        changes=(change.sections,),
    ),
    "GlmMoeDsaForCausalLM": ModelClass(
        "glm_moe_dsa",
        ROUTED + LATENT + NEXT + INDEXER,
        biases=ATTENTION_BIAS,
        kinds={"indexer_types": "indexer.attn_k.weight=full *=shared"},
        changes=(change.latent, change.latent_scale),
    ),
    "GptOssForCausalLM": ModelClass(
        "gpt_oss",
        LOCAL_EXPERTS,
        biases=ATTENTION_BIAS,
        changes=(change.alternating, change.untruncated, change.plain_rotation),
    ),
    "GraniteMoeForCausalLM": ModelClass("granitemoe", GRANITE + LOCAL_EXPERTS),
    "GraniteMoeHybridForCausalLM": ModelClass(
        "granitemoehybrid",
        GRANITE
        + LOCAL_EXPERTS
        + MAMBA2
        + "shared_intermediate_size expert_shared_feed_forward_length\n",
        biases={**ATTENTION_BIAS, **MAMBA_BIASES},
        kinds=LINEAR_LAYERS,
        changes=(change.mixers, change.positions),
    ),
    "GroveMoeForCausalLM": ModelClass("grove_moe", EXPERTS, _NORMALISED, remote=True),
    "HunYuanMoEV1ForCausalLM": ModelClass(
        "hunyuan_v1_moe",
        """
moe_intermediate_size    expert_feed_forward_length
moe_topk                 expert_used_count
num_experts              expert_count
num_shared_expert        expert_shared_count
""",
        biases=ATTENTION_BIAS,
    ),
    "JambaForCausalLM": ModelClass(
        "jamba",
        MAMBA
        + """
mamba_dt_rank            ssm.time_step_rank
num_experts              expert_count
num_experts_per_tok      expert_used_count
""",
        biases=MAMBA_BIASES,
        changes=(change.mixers, change.jamba),
    ),
    "Lfm2MoeForCausalLM": ModelClass(
        "lfm2_moe",
        SHORT_CONVOLUTION + "num_dense_layers leading_dense_block_count\n" + EXPERTS,
        biases={**CONV_BIAS, "use_expert_bias": "exp_probs_b.bias"},
        kinds=CONV_LAYERS,
        changes=(change.short_convolutions,),
    ),
    "KimiLinearForCausalLM": ModelClass(
        "kimi_linear",
        """
first_k_dense_replace    leading_dense_block_count
head_dim                 attention.value_length
kv_lora_rank             attention.kv_lora_rank
linear_attn_config.head_dim kda.head_dim
linear_attn_config.short_conv_kernel_size ssm.conv_kernel
model_max_length         context_length
moe_intermediate_size    expert_feed_forward_length
num_experts              expert_count
num_experts_per_token    expert_used_count
num_key_value_heads      attention.head_count
num_shared_experts       expert_shared_count
qk_rope_head_dim         rope.dimension_count
routed_scaling_factor    expert_weights_scale
topk_group               expert_group_used_count
v_head_dim               attention.value_length_mla
max_position_embeddings  -
rope_theta               -
""",
        {"mla_use_nope": True, "moe_renormalize": True},
        changes=(change.latent, change.kimi),
    ),
    "LLaDAMoEModelLM": ModelClass(
        "llada",
        """
num_experts              expert_count
num_experts_per_tok      expert_used_count
expert_intermediate_size expert_feed_forward_length
""",
        remote=True,
    ),
    "SmallThinkerForCausalLM": ModelClass(
        "smallthinker",
        """
moe_ffn_hidden_size            expert_feed_forward_length
moe_num_active_primary_experts expert_used_count
moe_num_primary_experts        expert_count
""",
        _NORMALISED,
        changes=(remote.small_thinker,),
        remote=True,
    ),
    "Llama4ForCausalLM": ModelClass(
        "llama4_text",
        LOCAL_EXPERTS
        + """
intermediate_size         expert_feed_forward_length
intermediate_size_mlp     feed_forward_length
interleave_moe_layer_step interleave_moe_layer_step
""",
        biases=ATTENTION_BIAS,
        changes=(change.llama4,),
        lacks="which layers have no rotary embeddings, how long a chunk of attention is, and "
        "whether queries and keys are normalised: every fourth, 8192, and they are unless there "
        "are 128 experts, as llama.cpp takes it",
    ),
    "MellumForCausalLM": ModelClass(
        "mellum",
        LOCAL_EXPERTS + MOE,
        _NORMALISED,
        biases=ATTENTION_BIAS,
        kinds=SPARSE_LAYERS,
        changes=(change.sliding_layers, change.two_bases),
    ),
    "MiniMaxM2ForCausalLM": ModelClass(
        "minimax_m2", LOCAL_EXPERTS + "rotary_dim rope.dimension_count\n"
    ),
    "DeepseekForCausalLM": ModelClass("deepseek", ROUTED, remote=True),
    "Mistral4ForCausalLM": ModelClass(
        "mistral4",
        ROUTED + LATENT,
        changes=(change.latent, change.latent_scale, change.mistral4),
        lacks="how attention is scaled by position, unless it was written here: not at all, as "
        "llama.cpp takes it",
    ),
    "RND1": ModelClass("rnd1", EXPERTS, _NORMALISED, remote=True),
    "MixtralForCausalLM": ModelClass("mixtral", LOCAL_EXPERTS),
    "NemotronHForCausalLM": ModelClass(
        "nemotron_h",
        ROUTED
        + """
moe_shared_expert_intermediate_size expert_shared_feed_forward_length
ssm_state_size           ssm.state_size
mamba_num_heads          ssm.time_step_rank
n_groups                 ssm.group_count
conv_kernel              ssm.conv_kernel
layer_norm_epsilon       attention.layer_norm_epsilon
first_k_dense_replace    -
num_hidden_layers        -
""",
        biases={**ATTENTION_BIAS, "mlp_bias": "ffn_up.bias ffn_up_shexp.bias", **SSM_BIASES},
        kinds={
            "hybrid_override_pattern": "ssm_out.weight=M attn_q.weight=* ffn_gate_inp.weight=E *=-"
        },
        changes=(change.nemotron_h,),
    ),
    "OlmoeForCausalLM": ModelClass("olmoe", EXPERTS),
    "PhiMoEForCausalLM": ModelClass(
        "phimoe", LOCAL_EXPERTS, {"attention_bias": True}, biases={"lm_head_bias": "output.bias"}
    ),
    "Qwen2MoeForCausalLM": ModelClass(
        "qwen2_moe", EXPERTS + SHARED, biases={"qkv_bias": "attn_q.bias"}
    ),
    "Qwen3MoeForCausalLM": ModelClass("qwen3_moe", EXPERTS, _NORMALISED, biases=ATTENTION_BIAS),
    "Qwen3VLMoeForConditionalGeneration": ModelClass(
        "qwen3_moe",
        EXPERTS,
        _NORMALISED,
        biases=ATTENTION_BIAS,
        changes=(change.interleaved_sections,),
        same_as="Qwen3MoeForCausalLM",
    ),
    "Qwen3NextForCausalLM": ModelClass(
        "qwen3_next",
        EXPERTS + SHARED + LINEAR,
        _NORMALISED | WHOLE_HEADS,
        kinds=LINEAR_LAYERS,
        changes=(change.value_dim,),
    ),
    "Qwen3_5MoeForCausalLM": ModelClass(
        "qwen3_5_moe_text",
        EXPERTS + SHARED + LINEAR,
        WHOLE_HEADS,
        kinds=LINEAR_LAYERS,
        changes=(change.value_dim,),
    ),
    "SolarOpenForCausalLM": ModelClass("solar_open", ROUTED, changes=(change.whole_heads,)),
}
