"""Google's Gemma models."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import (
    COMMON,
    EXPERT_SIZE,
    HEAD,
    PATTERN,
    POOLING,
    RMS,
    SIZES,
    UNUSUAL,
    UNUSUAL_PATTERN,
    WINDOW,
)

_NO_SPACE = "tokenizer.ggml.add_space_prefix =false\n"
_KV = "attention.head_count_kv num_key_value_heads|num_attention_heads\n"
_GEMMA3 = (
    COMMON
    + _NO_SPACE
    + """
final_logit_softcapping  final_logit_softcapping
attention.sliding_window @window-unless-one
"""
)
_SIXTH = UNUSUAL_PATTERN.format(6)

KEYS = (
    Keys(
        ("GemmaForCausalLM",),
        SIZES + RMS + HEAD + _KV + UNUSUAL + _NO_SPACE,
        tokens={"eot": 107},
        head="never",
    ),
    Keys(
        ("Gemma2ForCausalLM",),
        SIZES
        + RMS
        + HEAD
        + _KV
        + UNUSUAL
        + WINDOW
        + UNUSUAL_PATTERN.format(2)
        + _NO_SPACE
        + """
attn_logit_softcapping   attn_logit_softcapping
final_logit_softcapping  final_logit_softcapping
""",
        head="never",
    ),
    Keys(("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"), _GEMMA3 + _SIXTH),
    Keys(("Gemma3TextModel",), _GEMMA3 + _SIXTH + POOLING + WINDOW),
    Keys(
        ("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
        _GEMMA3
        + PATTERN
        + """
altup.active_idx         altup_active_idx
altup.num_inputs         altup_num_inputs
embedding_length_per_layer_input hidden_size_per_layer_input
attention.shared_kv_layers num_kv_shared_layers
activation_sparsity_scale @deviations
""",
    ),
    Keys(
        ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
        _GEMMA3
        + PATTERN
        + EXPERT_SIZE
        + """
attention.head_count_kv @by-layer:num_global_key_value_heads,num_key_value_heads|num_key_value_heads
attention.key_length     @of-full:global_head_dim,head_dim|head_dim
attention.value_length   @of-full:global_head_dim,head_dim|head_dim
attention.key_length_swa head_dim
attention.value_length_swa head_dim
attention.shared_kv_layers num_kv_shared_layers|=0
embedding_length_per_layer_input hidden_size_per_layer_input|=0
expert_feed_forward_length expert_intermediate_size|moe_intermediate_size
feed_forward_length      @doubled|intermediate_size
rope.dimension_count     @of-full:global_head_dim,head_dim|head_dim
rope.dimension_count_swa head_dim
tokenizer.ggml.add_bos_token =true
""",
        ("proportional",),
        vocabulary="gemma4",
    ),
)
