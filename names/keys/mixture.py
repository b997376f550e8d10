"""Mixtures of experts, and multi-head latent attention."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import (
    ALPHA,
    COMMON,
    EXPERT_SIZE,
    GRANITE,
    LLAMA,
    NEXT,
    PATTERN,
    ROUTED,
    SCORED,
    SIGMOID,
    SIZES,
    UNSCALED,
    UNUSUAL_PATTERN,
    VOCABULARY,
    WINDOW,
)
from anamnesis.names.keys.dense import PHI3

_GLM = {
    "bos": "[gMASK]",
    "eot": "<|user|>",
    "unk": "<|endoftext|>",
    "eom": "<|observation|>",
}
_LATENT = (
    COMMON
    + VOCABULARY
    + ROUTED
    + """
attention.head_count_kv  =1
attention.q_lora_rank    q_lora_rank
attention.kv_lora_rank   kv_lora_rank|=512
attention.key_length     kv_lora_rank+qk_rope_head_dim
attention.value_length   kv_lora_rank
attention.key_length_mla qk_nope_head_dim+qk_rope_head_dim
attention.value_length_mla v_head_dim
expert_feed_forward_length moe_intermediate_size|intermediate_size
expert_shared_count      n_shared_experts|=0
expert_weights_norm      @true:norm_topk_prob
leading_dense_block_count first_k_dense_replace|@dense-layers
rope.dimension_count     qk_rope_head_dim
rope.scaling.yarn_log_multiplier @log-multiplier
"""
)
_INDEXED = (
    _LATENT
    + NEXT
    + """
attention.indexer.head_count index_n_heads
attention.indexer.key_length index_head_dim
attention.indexer.top_k  index_topk
"""
)
GRANITE_MOE = GRANITE + "expert_shared_feed_forward_length @nonzero:shared_intermediate_size\n"

KEYS = (
    Keys(
        ("AfmoeForCausalLM",),
        LLAMA
        + WINDOW
        + UNUSUAL_PATTERN.format(4)
        + EXPERT_SIZE
        + """
expert_shared_count      num_shared_experts
leading_dense_block_count num_dense_layers
expert_weights_norm      route_norm
expert_weights_scale     route_scale
""",
    ),
    Keys(
        ("Cohere2MoeForCausalLM",),
        COMMON
        + VOCABULARY
        + WINDOW
        + PATTERN
        + UNSCALED
        + """
expert_feed_forward_length intermediate_size
expert_shared_count      @nonzero:num_shared_experts
expert_shared_feed_forward_length intermediate_size*num_shared_experts
expert_weights_norm      norm_topk_prob|=false
feed_forward_length      prefix_dense_intermediate_size
leading_dense_block_count @leading-dense|first_k_dense_replace|=0
logit_scale              logit_scale
nextn_predict_layers     -
rope.dimension_count     head_dim
""",
    ),
    Keys(
        ("DbrxForCausalLM",),
        SIZES
        + """
context_length           max_seq_len
embedding_length         d_model
feed_forward_length      ffn_config.ffn_hidden_size
attention.head_count_kv  attn_config.kv_n_heads
rope.freq_base           attn_config.rope_theta|@rope:rope_theta
attention.clamp_kqv      attn_config.clip_qkv
expert_count             ffn_config.moe_num_experts
expert_used_count        ffn_config.moe_top_k
attention.layer_norm_epsilon =1e-5
""",
        all_matrices=True,
    ),
    Keys(
        ("DeepseekV2ForCausalLM", "YoutuForCausalLM"),
        _LATENT,
        head="untied",
    ),
    Keys(("DeepseekV3ForCausalLM",), _LATENT + SCORED, head="untied"),
    Keys(("DeepseekV32ForCausalLM",), _INDEXED + SCORED),
    Keys(("Dots1ForCausalLM",), COMMON + ROUTED + SCORED),
    Keys(
        ("Ernie4_5_MoeForCausalLM",),
        COMMON
        + EXPERT_SIZE
        + """
expert_count             moe_num_experts
expert_used_count        moe_k
interleave_moe_layer_step moe_layer_interval
leading_dense_block_count moe_layer_start_index
expert_shared_count      moe_num_shared_experts
expert_shared_feed_forward_length @shared-part
""",
    ),
    Keys(
        ("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"),
        COMMON
        + VOCABULARY
        + WINDOW
        + PATTERN
        + EXPERT_SIZE
        + NEXT
        + UNSCALED
        + SCORED
        + """
nextn_predict_layers     num_nextn_predict_layers|=0
expert_shared_count      num_shared_experts
expert_shared_feed_forward_length moe_intermediate_size*num_shared_experts
expert_weights_scale     routed_scaling_factor
expert_weights_norm      norm_topk_prob
leading_dense_block_count first_k_dense_replace|first_last_k_dense_replace|=0
""",
        ("llama3",),
    ),
    Keys(
        ("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
        COMMON + ROUTED + NEXT + SIGMOID + "rope.dimension_count @rotary:0.5\n",
        tokens=_GLM,
    ),
    Keys(("Glm4MoeLiteForCausalLM",), _LATENT + SCORED, tokens=_GLM, head="untied"),
    Keys(("GlmMoeDsaForCausalLM",), _INDEXED, tokens=_GLM),
    Keys(
        ("GptOssForCausalLM",),
        COMMON
        + WINDOW
        + UNUSUAL_PATTERN.format(2)
        + "expert_feed_forward_length intermediate_size\n",
    ),
    Keys(("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"), GRANITE_MOE, ("llama3",)),
    Keys(
        ("HunYuanMoEV1ForCausalLM",),
        COMMON
        + ALPHA
        + """
rope.freq_base           @alpha-base:1000|@rope:rope_theta
expert_shared_feed_forward_length intermediate_size
expert_feed_forward_length moe_intermediate_size.0|moe_intermediate_size|intermediate_size
expert_used_count        moe_topk.0|moe_topk
expert_shared_count      num_shared_expert.0|num_shared_expert|=1
""",
        head="untied",
    ),
    Keys(
        ("KimiLinearForCausalLM",),
        _LATENT
        + SCORED
        + """
attention.head_count_kv  @kimi-heads
attention.kv_lora_rank   kv_lora_rank
attention.value_length   head_dim
expert_count             num_experts
expert_used_count        num_experts_per_token
expert_group_count       -
expert_shared_count      num_shared_experts
expert_weights_norm      -
rope.freq_base           -
rope.scaling.yarn_log_multiplier -
ssm.conv_kernel          linear_attn_config.short_conv_kernel_size
kda.head_dim             linear_attn_config.head_dim
""",
    ),
    Keys(
        ("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
        LLAMA
        + """
feed_forward_length      intermediate_size_mlp
interleave_moe_layer_step interleave_moe_layer_step
expert_feed_forward_length intermediate_size
attention.sliding_window @all-full
""",
        ("llama3",),
    ),
    Keys(("MellumForCausalLM",), COMMON + EXPERT_SIZE + WINDOW + PATTERN),
    Keys(
        ("MiniMaxM2ForCausalLM",),
        COMMON
        + SCORED
        + """
expert_feed_forward_length intermediate_size
rope.dimension_count     rotary_dim
""",
    ),
    Keys(
        ("Mistral4ForCausalLM",),
        _LATENT
        + """
attention.temperature_scale @rope:llama_4_scaling_beta
attention.temperature_length @with-temperature:original_max_position_embeddings
""",
        head="untied",
    ),
    Keys(("MixtralForCausalLM",), LLAMA, ("llama3",)),
    Keys(
        ("OlmoeForCausalLM",),
        COMMON + "attention.layer_norm_rms_epsilon rms_norm_eps|=1e-5\n",
    ),
    Keys(
        ("PhiMoEForCausalLM", "PhimoeForCausalLM"),
        PHI3
        + """
expert_count             num_local_experts|num_experts
expert_used_count        num_experts_per_tok|num_experts_per_token
""",
        ("longrope", "su"),
        vocabulary="added",
    ),
    Keys(
        ("SolarOpenForCausalLM",),
        COMMON + ROUTED + NEXT + SIGMOID + "rope.dimension_count @rotary:1.0\n",
        tokens={
            "eos": "<|endoftext|>",
            "eot": "<|endoftext|>",
            "unk": "<unk>",
            "bos": "<|startoftext|>",
        },
    ),
)
