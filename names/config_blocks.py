"""Rows of `config.json` that many classes share: `KEY  GGUF-KEY` (after `ARCHITECTURE.`)."""

from __future__ import annotations

MOE = """
num_experts_per_tok      expert_used_count
moe_intermediate_size    expert_feed_forward_length
"""
EXPERTS = "num_experts expert_count" + MOE
LOCAL_EXPERTS = "num_local_experts expert_count\nnum_experts_per_tok expert_used_count\n"
GROUPS = """
n_group                  expert_group_count
topk_group               expert_group_used_count
"""
ROUTED = (
    "n_routed_experts expert_count"
    + MOE
    + GROUPS
    + """
n_shared_experts         expert_shared_count
first_k_dense_replace    leading_dense_block_count
routed_scaling_factor    expert_weights_scale
norm_topk_prob           expert_weights_norm
"""
)
NEXT = "num_nextn_predict_layers nextn_predict_layers\n"
SHARED = "shared_expert_intermediate_size expert_shared_feed_forward_length\n"

GPT2 = """
n_embd             embedding_length
n_layer            block_count
n_head             attention.head_count
n_positions        context_length
n_inner            feed_forward_length
layer_norm_epsilon attention.layer_norm_epsilon
"""
LATENT = """
q_lora_rank              attention.q_lora_rank
kv_lora_rank             attention.kv_lora_rank
qk_rope_head_dim         rope.dimension_count
v_head_dim               attention.value_length_mla
num_key_value_heads      attention.head_count
head_dim                 -
"""
INDEXER = """
index_n_heads            attention.indexer.head_count
index_head_dim           attention.indexer.key_length
index_topk               attention.indexer.top_k
"""
GRANITE = """
attention_multiplier     attention.scale
embedding_multiplier     embedding_scale
residual_multiplier      residual_scale
logits_scaling           logit_scale
head_dim                 -
"""
LINEAR = """
linear_conv_kernel_dim   ssm.conv_kernel
linear_key_head_dim      ssm.state_size
linear_num_key_heads     ssm.group_count
linear_num_value_heads   ssm.time_step_rank
full_attention_interval  full_attention_interval
"""
SSM = """
state_size    ssm.state_size
conv_kernel   ssm.conv_kernel
layer_norm_epsilon attention.layer_norm_rms_epsilon
rms_norm_eps  -
intermediate_size -
head_dim      -
"""
MAMBA = """
mamba_d_conv   ssm.conv_kernel
mamba_d_state  ssm.state_size
"""
MAMBA2 = (
    MAMBA
    + """
mamba_n_groups ssm.group_count
mamba_n_heads  ssm.time_step_rank
"""
)
T5 = """
d_model                  embedding_length
d_kv                     attention.key_length
d_ff                     feed_forward_length
num_layers               block_count
num_heads                attention.head_count
layer_norm_epsilon       attention.layer_norm_epsilon
relative_attention_num_buckets attention.relative_buckets_count
"""
SHORT_CONVOLUTION = """
norm_eps                 attention.layer_norm_rms_epsilon
conv_L_cache             shortconv.l_cache
"""
# Of classes that turn a part of a head where their configuration does not say how much.
WHOLE_HEADS = {"partial_rotary_factor": 1.0}
RESIDUAL = "use_parallel_residual use_parallel_residual\n"
SOFTCAPS = """
attn_logit_softcapping   attn_logit_softcapping
final_logit_softcapping  final_logit_softcapping
"""
MPT = """
d_model                  embedding_length
n_layers                 block_count
n_heads                  attention.head_count
max_seq_len              context_length
"""
LAYER_EPS = "layer_norm_eps attention.layer_norm_epsilon\n"
NORM_EPS = "norm_eps attention.layer_norm_epsilon\n"
EPSILON = "layer_norm_epsilon attention.layer_norm_epsilon\n"
PER_LAYER = """
hidden_size_per_layer_input embedding_length_per_layer_input
num_kv_shared_layers     attention.shared_kv_layers
final_logit_softcapping  final_logit_softcapping
"""

# Of any class, if its file has them.
USUAL_BIASES = {
    "attention_bias": ".attn_q.bias .attn_kv_a_mqa.bias .attn_output.bias .attn_qkv.bias",
    "mlp_bias": ".ffn_up.bias",
}
SSM_BIASES = {"use_bias": "ssm_in.bias", "use_conv_bias": "ssm_conv1d.bias"}
CONV_BIAS = {"conv_bias": "shortconv.conv.bias"}
ATTENTION_BIAS = {"attention_bias": "attn_q.bias"}
BIASES = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
MAMBA_BIASES = {"mamba_conv_bias": "ssm_conv1d.bias", "mamba_proj_bias": "ssm_in.bias"}

# Kinds of layers, by the tensors they have.
LINEAR_LAYERS = {"layer_types": "ssm_out.weight=linear_attention *=full_attention"}
CONV_LAYERS = {"layer_types": "shortconv.conv.weight=conv *=full_attention"}
SPARSE_LAYERS = {"mlp_layer_types": "ffn_gate_inp.weight=sparse *=dense"}
