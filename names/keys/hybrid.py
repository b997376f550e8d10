"""State-space models, and what has attention beside them or beside short convolutions."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import (
    BASE,
    COMMON,
    EXPERT_SIZE,
    HEAD,
    RMS,
    SIGMOID,
    SIZES,
    VOCABULARY,
)
from anamnesis.names.keys.mixture import GRANITE_MOE

_MAMBA = """
block_count              n_layers|num_hidden_layers|n_layer|num_layers
context_length           =1048576
embedding_length         hidden_size|d_model
feed_forward_length      =0
attention.head_count     =0
attention.layer_norm_rms_epsilon layer_norm_epsilon|rms_norm_eps|=1e-5
ssm.conv_kernel          conv_kernel|d_conv|=4
ssm.state_size           state_size|d_state|=16
ssm.inner_size           intermediate_size|d_inner|2*hidden_size|2*d_model
"""
_MAMBA2 = """
ssm.state_size           state_size|d_state|=128
ssm.inner_size           intermediate_size|d_inner|expand*hidden_size|2*hidden_size
ssm.time_step_rank       @ssm-heads
ssm.group_count          n_groups|=1
"""
_SHORT = (
    COMMON
    + VOCABULARY
    + """
attention.head_count_kv  @attention-heads
shortconv.l_cache        conv_L_cache
attention.layer_norm_rms_epsilon norm_eps
"""
)
_HYBRID = (
    GRANITE_MOE
    + """
attention.head_count_kv  @attention-heads
rope.dimension_count     attn_rotary_emb|@split-width
ssm.conv_kernel          mamba_d_conv
ssm.state_size           mamba_d_state
ssm.group_count          mamba_n_groups
ssm.inner_size           mamba_expand*hidden_size
ssm.time_step_rank       mamba_n_heads
"""
)

KEYS = (
    Keys(("BambaForCausalLM",), _HYBRID + "rope.scaling.finetuned =true\n"),
    Keys(
        ("GraniteMoeHybridForCausalLM",),
        _HYBRID
        + """
context_length           @some-mixers:1048576|max_position_embeddings
rope.scaling.finetuned   @all-attention
ssm.conv_kernel          mamba_d_conv
""",
        ("llama3",),
    ),
    Keys(
        ("JambaForCausalLM",),
        SIZES
        + """
attention.head_count_kv  @attention-heads
attention.layer_norm_rms_epsilon layer_norm_epsilon|rms_norm_eps|=1e-6
ssm.conv_kernel          mamba_d_conv|=4
ssm.inner_size           mamba_expand*hidden_size
ssm.state_size           mamba_d_state|=16
ssm.time_step_rank       mamba_dt_rank|@sixteenths
expert_count             num_local_experts|num_experts
expert_used_count        num_experts_per_tok|num_experts_per_token
""",
    ),
    Keys(
        ("FalconH1ForCausalLM",),
        SIZES
        + HEAD
        + BASE
        + VOCABULARY
        + RMS
        + """
ssm.conv_kernel          mamba_d_conv|=4
ssm.group_count          mamba_n_groups
ssm.inner_size           mamba_d_ssm|mamba_expand*hidden_size
ssm.state_size           mamba_d_state|=128
ssm.time_step_rank       @ssm-heads
""",
    ),
    Keys(
        ("LFM2ForCausalLM", "Lfm2ForCausalLM", "Lfm2Model", "Lfm2VlForConditionalGeneration"),
        _SHORT + "feed_forward_length @short-inner\n",
    ),
    Keys(
        ("Lfm2MoeForCausalLM",),
        _SHORT + EXPERT_SIZE + SIGMOID + "leading_dense_block_count num_dense_layers\n",
    ),
    Keys(
        ("FalconMambaForCausalLM", "MambaForCausalLM"),
        _MAMBA
        + """
ssm.time_step_rank       time_step_rank|dt_rank|@sixteenths
ssm.dt_b_c_rms           @is:model_type,falcon_mamba
""",
        head="untied",
    ),
    Keys(("Mamba2ForCausalLM",), _MAMBA + _MAMBA2, head="untied"),
    Keys(
        ("NemotronHForCausalLM",),
        _HYBRID
        + """
block_count              num_hidden_layers|@count:layers_block_type|@count:hybrid_override_pattern
context_length           =1048576
feed_forward_length      @mixing-layers:moe_intermediate_size,intermediate_size
attention.key_length     head_dim|attention_head_dim
attention.value_length   head_dim|attention_head_dim
expert_count             @with:num_experts_per_tok,n_routed_experts
expert_feed_forward_length @with:num_experts_per_tok,moe_intermediate_size
expert_shared_feed_forward_length @with:num_experts_per_tok,moe_shared_expert_intermediate_size
expert_shared_count      @with:num_experts_per_tok,n_shared_experts
expert_weights_norm      @with:num_experts_per_tok,norm_topk_prob
expert_weights_scale     @with:num_experts_per_tok,routed_scaling_factor
moe_latent_size          @with:num_experts_per_tok,moe_latent_size
rope.scaling.finetuned   =false
ssm.conv_kernel          conv_kernel|d_conv
ssm.state_size           ssm_state_size|state_size
ssm.group_count          n_groups
ssm.inner_size           mamba_num_heads*mamba_head_dim
ssm.time_step_rank       mamba_num_heads
tokenizer.ggml.add_bos_token @lacks:num_experts_per_tok
""",
        second="num_experts_per_tok",
    ),
)
