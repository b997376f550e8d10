"""Models of the first years, and small ones, with names of their own around a usual layer."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import COMMON, POOLING, SIZES, UNUSUAL, VOCABULARY, WIDTH

_PTH = 'tensor_data_layout       ="Meta AI original pth"\n'

KEYS = (
    Keys(("ArcticForCausalLM",), COMMON + VOCABULARY + WIDTH),
    Keys(("BaiChuanForCausalLM", "BaichuanForCausalLM"), COMMON + WIDTH + _PTH),
    Keys(
        ("CodeShellForCausalLM",),
        """
block_count              n_layer
context_length           n_positions
embedding_length         n_embd
feed_forward_length      n_inner|4*n_embd
attention.head_count     n_head
attention.head_count_kv  num_query_groups
attention.layer_norm_epsilon layer_norm_epsilon
rope.freq_base           @rope:rope_theta|=10000.0
rope.scaling.type        ="linear"
rope.scaling.factor      =1.0
""",
    ),
    Keys(("KORMoForCausalLM",), COMMON + POOLING),
    Keys(
        ("OpenELMForCausalLM",),
        """
block_count              num_transformer_layers
context_length           max_context_length
embedding_length         model_dim
feed_forward_length      @multiplied-widths
attention.head_count     num_query_heads
attention.head_count_kv  num_kv_heads
attention.key_length     head_dim
attention.value_length   head_dim
attention.layer_norm_rms_epsilon =1e-6
rope.dimension_count     head_dim
rope.freq_base           rope_freq_constant
""",
    ),
    Keys(
        ("OrionForCausalLM",),
        SIZES
        + UNUSUAL
        + _PTH
        + """
context_length           max_sequence_length|max_position_embeddings|model_max_length
attention.layer_norm_epsilon rms_norm_eps
""",
    ),
    Keys(
        ("PLMForCausalLM",),
        COMMON
        + VOCABULARY
        + """
attention.kv_lora_rank   kv_lora_rank
attention.key_length     qk_nope_head_dim+qk_rope_head_dim
attention.value_length   v_head_dim
rope.dimension_count     qk_rope_head_dim
""",
    ),
    Keys(
        ("QWenLMHeadModel",),
        COMMON + "attention.layer_norm_rms_epsilon layer_norm_epsilon\n",
    ),
)
