"""Qwen's models, dense, of experts, and with linear attention."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    EXPERTS,
    MLP,
    NORMS,
    QK_NORMS,
    SHARED_EXPERT,
    TOP,
    plus_one,
)
from anamnesis.names.family import Family

_ATTENTION_NORMS = """
attn_norm           input_layernorm
post_attention_norm post_attention_layernorm
"""

_LINEAR = """
ssm_a!              linear_attn.A_log!         -exp
ssm_conv1d.weight   linear_attn.conv1d.weight  conv
ssm_dt.bias!        linear_attn.dt_bias!
ssm_ba              linear_attn.in_proj_ba
attn_qkv.weight     linear_attn.in_proj_qkvz.weight  grouped-part:ssm-groups,ssm-key-dim
attn_qkv.weight     linear_attn.in_proj_qkvz.weight  grouped-part:ssm-groups,ssm-key-dim
attn_qkv.weight     linear_attn.in_proj_qkvz.weight  grouped-part:ssm-groups,value-group
attn_gate.weight    linear_attn.in_proj_qkvz.weight  grouped-part:ssm-groups,value-group
ssm_norm            linear_attn.norm
ssm_out             linear_attn.out_proj
"""

# The value heads of one key head lie together there, and one of each key head after another here.
_TILED = """
ssm_a!              linear_attn.A_log!         -exp rows:ssm-groups,ssm-v-per-k,1
ssm_conv1d.weight   linear_attn.conv1d.weight  +c 1 k -> +c k; c=ssm-keys
ssm_conv1d.weight   linear_attn.conv1d.weight  tiled-conv:ssm-groups,ssm-v-per-k,ssm-value-dim
ssm_dt.bias!        linear_attn.dt_bias!       rows:ssm-groups,ssm-v-per-k,1
ssm_alpha           linear_attn.in_proj_a      rows:ssm-groups,ssm-v-per-k,1
ssm_beta            linear_attn.in_proj_b      rows:ssm-groups,ssm-v-per-k,1
attn_qkv.weight     linear_attn.in_proj_qkv.weight  +c ... -> +c ...; c=ssm-keys
attn_qkv.weight     linear_attn.in_proj_qkv.weight  tiled-part:ssm-groups,ssm-v-per-k,ssm-value-dim
attn_gate           linear_attn.in_proj_z      rows:ssm-groups,ssm-v-per-k,ssm-value-dim
ssm_norm            linear_attn.norm
ssm_out.weight      linear_attn.out_proj.weight  columns:ssm-groups,ssm-v-per-k,ssm-value-dim
"""

FAMILIES = (
    Family("qwen2", ("qwen2",), ("Qwen2ForCausalLM", "Qwen2Model"), TOP, ATTENTION + MLP + NORMS),
    Family(
        "qwen2moe",
        ("qwen2moe",),
        ("Qwen2MoeForCausalLM",),
        TOP,
        ATTENTION + MLP + NORMS + EXPERTS + SHARED_EXPERT,
    ),
    Family(
        "qwen2vl",
        ("qwen2vl",),
        ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        TOP,
        ATTENTION + MLP + NORMS,
    ),
    Family(
        "qwen3",
        ("qwen3",),
        ("Qwen3ForCausalLM", "Qwen3Model"),
        TOP,
        ATTENTION + QK_NORMS + MLP + NORMS,
    ),
    Family(
        "qwen35",
        ("qwen35",),
        ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        plus_one(TOP),
        plus_one(_ATTENTION_NORMS + QK_NORMS) + ATTENTION + MLP + _TILED,
    ),
    Family(
        "qwen35moe",
        ("qwen35moe",),
        ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        plus_one(TOP),
        plus_one(_ATTENTION_NORMS + QK_NORMS) + ATTENTION + EXPERTS + SHARED_EXPERT + _TILED,
    ),
    Family(
        "qwen3moe",
        ("qwen3moe",),
        ("Qwen3MoeForCausalLM",),
        TOP,
        ATTENTION + QK_NORMS + MLP + NORMS + EXPERTS,
    ),
    Family(
        "qwen3next",
        ("qwen3next",),
        ("Qwen3NextForCausalLM",),
        plus_one(TOP),
        plus_one(_ATTENTION_NORMS + QK_NORMS) + ATTENTION + MLP + EXPERTS + SHARED_EXPERT + _LINEAR,
    ),
    Family(
        "qwen3vl",
        ("qwen3vl",),
        ("Qwen3VLForConditionalGeneration", "Qwen3ASRForConditionalGeneration"),
        TOP,
        ATTENTION + QK_NORMS + MLP + NORMS,
    ),
    # The text model alone is a Qwen3-MoE, whose experts are stored one by one.
    Family(
        "qwen3moe-of-vl",
        ("qwen3vlmoe",),
        ("Qwen3MoeForCausalLM",),
        TOP,
        ATTENTION + QK_NORMS + MLP + NORMS + EXPERTS,
        only="to-hf",
    ),
    Family(
        "qwen3vlmoe",
        ("qwen3vlmoe",),
        ("Qwen3VLMoeForConditionalGeneration",),
        TOP,
        ATTENTION
        + QK_NORMS
        + NORMS
        + """
ffn_gate_inp        mlp.gate
ffn_gate_exps.weight mlp.experts.gate_up_proj!  e c +f -> e f c; c=embedding_length
ffn_up_exps.weight  mlp.experts.gate_up_proj!  e c +f -> e f c; c=embedding_length
ffn_down_exps.weight mlp.experts.down_proj!     e f c -> e c f; c=embedding_length
""",
    ),
)
