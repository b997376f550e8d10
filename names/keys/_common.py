"""Rows that many classes share (`TextModel.set_gguf_parameters` of conversion/base.py)."""

from __future__ import annotations

SIZES = """
block_count              n_layers|num_hidden_layers|n_layer|num_layers
context_length           max_position_embeddings|n_ctx|n_positions|@longest
embedding_length         hidden_size|n_embd|dim
feed_forward_length      @inner
attention.head_count     num_attention_heads|n_head|n_heads
attention.head_count_kv  num_key_value_heads|n_kv_heads
"""

HEAD = """
attention.key_length     head_dim
attention.value_length   head_dim
"""

RMS = "attention.layer_norm_rms_epsilon rms_norm_eps\n"
EPSILON = "attention.layer_norm_epsilon layer_norm_epsilon|layer_norm_eps\n"

BASE = """
rope.freq_base           @rope:rope_theta
"""

SCALING = """
rope.scaling.type                     @scaling-type
rope.scaling.factor                   @scaled:factor
rope.scaling.original_context_length  @yarn:original_max_position_embeddings
rope.scaling.yarn_ext_factor          @yarn:extrapolation_factor
rope.scaling.yarn_attn_factor         @yarn:attention_factor|@yarn:attn_factor
rope.scaling.yarn_beta_fast           @yarn:beta_fast
rope.scaling.yarn_beta_slow           @yarn:beta_slow
"""

# Of classes whose files the converter leaves without: llama.cpp reads these of all architectures.
UNUSUAL = (
    """
rope.freq_base           @rope-base-unless:10000
"""
    + SCALING
)

# What every class has, unless its rows begin with less.
COMMON = (
    SIZES
    + HEAD
    + BASE
    + SCALING
    + """
attention.causal                      @not-causal
rope.dimension_sections               @sections
rope.freq_base_swa                    @window:rope_theta
attention.layer_norm_rms_epsilon      rms_norm_eps|norm_eps
attention.layer_norm_epsilon          layer_norm_eps|layer_norm_epsilon|norm_epsilon
expert_count                          num_local_experts|num_experts|n_routed_experts
expert_used_count                     num_experts_per_tok|num_experts_per_token|top_k_experts
expert_group_count                    n_group
expert_group_used_count               topk_group
expert_gating_func                    @gating
"""
)

POOLING = "pooling_type @pooling\n"
VOCABULARY = "vocab_size vocab_size\n"
WIDTH = "rope.dimension_count @width\n"
PREFIX = "tokenizer.ggml.add_space_prefix tokenizer_config.add_prefix_space\n"
# Vocabularies of so many words are Granite's and SmolLM's, which begin with none.
LLAMA = (
    COMMON
    + VOCABULARY
    + WIDTH
    + PREFIX
    + """
tokenizer.ggml.add_bos_token @no-first-word:49152
"""
)

GRANITE = (
    LLAMA
    + """
attention.key_length     -
attention.value_length   -
rope.dimension_count     @split-width
attention.scale          @nonzero:attention_multiplier
embedding_scale          @nonzero:embedding_multiplier
residual_scale           @nonzero:residual_multiplier
logit_scale              @nonzero:logits_scaling
"""
)

WINDOW = "attention.sliding_window sliding_window\n"
# Hunyuan's scaling by `alpha`, which is one of the base alone, whatever context it says.
ALPHA = """
context_length           @when:dynamic,262144|max_position_embeddings
rope.scaling.type        @when:dynamic/xdrope,"none"|@scaling-type
rope.scaling.factor      @when:dynamic/xdrope,1|@scaled:factor
rope.scaling.original_context_length @when:dynamic,262144|@yarn:original_max_position_embeddings
"""
UNUSUAL_PATTERN = "attention.sliding_window_pattern @windowed-unless:{}\n"
PATTERN = "attention.sliding_window_pattern @windowed\n"
UNSCALED = 'rope.scaling.type ="none"\n'
EXPERT_SIZE = "expert_feed_forward_length moe_intermediate_size\n"
SHARED_SIZE = "expert_shared_feed_forward_length shared_expert_intermediate_size\n"
SIGMOID = "expert_gating_func =2\n"
# Of classes that know no other, which their folders do not say where transformers saved them, and
# llama.cpp takes another for granted, or none.
SCORED = "expert_gating_func @gating|=2\n"
ROUTED = (
    EXPERT_SIZE
    + """
expert_shared_count        n_shared_experts
leading_dense_block_count  first_k_dense_replace
expert_weights_scale       routed_scaling_factor
expert_weights_norm        norm_topk_prob
"""
)
NEXT = """
block_count              num_hidden_layers+num_nextn_predict_layers|num_hidden_layers
nextn_predict_layers     num_nextn_predict_layers
"""
