"""Classes of the first years, and small ones: their code lies beside their weights."""

from __future__ import annotations

from anamnesis.names import config_changes as change
from anamnesis.names import config_remote as remote
from anamnesis.names.config_blocks import BIASES, LAYER_EPS, LOCAL_EXPERTS
from anamnesis.names.config_class import ModelClass

_POOLER = "pooler.*"

OTHERS: dict[str, ModelClass] = {
    "ArcticForCausalLM": ModelClass(
        "arctic",
        LOCAL_EXPERTS,
        {"moe_layer_frequency": 1, "parallel_attn_mlp_res": True, "use_residual": True},
        remote=True,
    ),
    "GPTRefactForCausalLM": ModelClass(
        "gpt_refact",
        """
layer_norm_epsilon       attention.layer_norm_rms_epsilon
n_embd                   embedding_length
n_head                   attention.head_count
n_layer                  block_count
n_positions              context_length
rms_norm_eps             -
""",
        {"multi_query": True, "attention_bias_in_fp32": True},
        remote=True,
    ),
    "JinaBertForMaskedLM": ModelClass(
        "bert",
        LAYER_EPS,
        {"feed_forward_type": "geglu", "position_embedding_type": "alibi", "emb_pooler": "mean"},
        {"use_qk_norm": "attn_q_norm.weight"},
        changes=(change.token_types,),
        missing=_POOLER,
        remote=True,
    ),
    "LlamaBidirectionalModel": ModelClass("llama_bidirec", biases=BIASES, remote=True),
    "NeoBERTLMHead": ModelClass(
        "neobert",
        """
max_length               context_length
norm_eps                 attention.layer_norm_rms_epsilon
rms_norm_eps             -
max_position_embeddings  -
""",
        changes=(remote.neo_bert,),
        missing="decoder.*",
        remote=True,
    ),
    "OpenELMForCausalLM": ModelClass(
        "openelm",
        """
head_dim                 attention.key_length
max_context_length       context_length
model_dim                embedding_length
num_kv_heads             attention.head_count_kv
num_query_heads          attention.head_count
num_transformer_layers   block_count
rope_freq_constant       rope.freq_base
hidden_size              -
intermediate_size        -
max_position_embeddings  -
num_attention_heads      -
num_hidden_layers        -
num_key_value_heads      -
rms_norm_eps             -
rope_theta               -
""",
        {
            "activation_fn_name": "swish",
            "ffn_with_glu": True,
            "normalization_layer_name": "rms_norm",
            "normalize_qk_projections": True,
            "num_gqa_groups": 4,
            "qkv_multipliers": [0.5, 1.0],
        },
        changes=(remote.openelm,),
        lacks="how heads grow from layer to layer: from half of the hidden size to all of it, with "
        "four of queries for each of keys",
        remote=True,
    ),
    "PLMForCausalLM": ModelClass(
        "plm",
        """
kv_lora_rank             attention.kv_lora_rank
qk_rope_head_dim         rope.dimension_count
v_head_dim               attention.value_length
head_dim                 -
""",
        constants={"hidden_act": "relu2"},
        changes=(remote.plm,),
        remote=True,
    ),
    "QWenLMHeadModel": ModelClass(
        "qwen",
        """
layer_norm_epsilon       attention.layer_norm_rms_epsilon
kv_channels              attention.key_length
rotary_emb_base          rope.freq_base
seq_length               context_length
head_dim                 -
rms_norm_eps             -
rope_theta               -
""",
        {"no_bias": True, "rotary_pct": 1.0, "use_dynamic_ntk": True, "use_logn_attn": True},
        changes=(remote.qwen,),
        lacks="how long texts are scaled (use_dynamic_ntk, use_logn_attn): as Qwen's own models do",
        remote=True,
    ),
}
