"""Models whose code lies beside their weights; two of them look both ways, and fill in words."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import (
    COMMON,
    EXPERT_SIZE,
    NEXT,
    POOLING,
    PREFIX,
    SHARED_SIZE,
    UNSCALED,
    VOCABULARY,
    WIDTH,
)

_MASKED = """
attention.causal         =false
tokenizer.ggml.mask_token_id mask_token_id
"""

_LING = (
    COMMON
    + VOCABULARY
    + EXPERT_SIZE
    + """
expert_shared_count      num_shared_experts
expert_weights_norm      norm_topk_prob
leading_dense_block_count first_k_dense_replace
"""
)

KEYS = (
    Keys(("BailingMoeForCausalLM",), _LING + WIDTH + "expert_weights_scale =1.0\n"),
    Keys(
        ("BailingMoeV2ForCausalLM",),
        _LING
        + NEXT
        + "expert_shared_feed_forward_length moe_shared_expert_intermediate_size|"
        + "moe_intermediate_size*num_shared_experts\n"
        + """
expert_weights_scale     routed_scaling_factor
rope.dimension_count     @rotary:0.5
""",
    ),
    # Heads and widths by layer, which its blocks have.
    Keys(
        ("DeciLMForCausalLM",),
        COMMON
        + VOCABULARY
        + WIDTH
        + """
attention.head_count     @block-heads|num_attention_heads
attention.head_count_kv  @block-key-heads|num_key_value_heads_per_layer|num_key_value_heads
attention.key_length     @width
attention.value_length   @width
feed_forward_length      @block-widths|intermediate_size
rope.scaling.type        -
rope.scaling.factor      -
""",
        ("llama3",),
    ),
    Keys(
        ("DeepseekForCausalLM",),
        COMMON
        + WIDTH
        + UNSCALED
        + VOCABULARY
        + EXPERT_SIZE
        + """
expert_shared_count      n_shared_experts
expert_weights_scale     =1.0
leading_dense_block_count first_k_dense_replace
""",
    ),
    Keys(("DreamModel",), COMMON + POOLING + _MASKED),
    Keys(
        ("GroveMoeForCausalLM",),
        COMMON
        + EXPERT_SIZE
        + """
expert_chunk_feed_forward_length head_dim|=128
experts_per_group        =2
expert_group_scale       =0.05
""",
    ),
    Keys(
        ("LLaDAModelLM",),
        COMMON
        + POOLING
        + VOCABULARY
        + WIDTH
        + """
attention.causal         =false
context_length           max_sequence_length|=4096
diffusion.shift_logits   =false
embedding_length         d_model|=4096
feed_forward_length      mlp_hidden_size|=12288
tokenizer.ggml.add_bos_token =true
""",
    ),
    Keys(
        ("LLaDAMoEModel", "LLaDAMoEModelLM"),
        COMMON
        + """
attention.causal         =false
diffusion.shift_logits   =false
expert_feed_forward_length expert_intermediate_size
tokenizer.ggml.mask_token_id mask_token_id|=156895
""",
    ),
    Keys(("MaincoderForCausalLM",), COMMON + "rope.dimension_count head_dim\n"),
    Keys(
        ("PanguEmbeddedForCausalLM",),
        COMMON
        + VOCABULARY
        + WIDTH
        + PREFIX
        + """
attention.key_length     @width
attention.value_length   @width
""",
        head="untied",
    ),
    Keys(("RND1",), COMMON + EXPERT_SIZE + SHARED_SIZE + _MASKED),
    Keys(
        ("SmallThinkerForCausalLM",),
        COMMON
        + """
attention.sliding_window @some:sliding_window_layout,sliding_window_size
expert_count             moe_num_primary_experts
expert_feed_forward_length moe_ffn_hidden_size
expert_gating_func       @softmax-or-sigmoid:moe_primary_router_apply_softmax
expert_used_count        moe_num_active_primary_experts
feed_forward_length      moe_ffn_hidden_size
""",
    ),
)
