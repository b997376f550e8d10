"""Multi-head latent attention: keys and values out of one low-rank projection."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    EXPERTS,
    GATE_CORRECTION,
    LONG_FACTORS,
    MLP,
    NEXT_TOKENS,
    NORMS,
    SHARED_EXPERTS,
    SPARSE_EXPERTS,
    TOP,
)
from anamnesis.names.family import Family

_LATENT = """
attn_q_a            self_attn.q_a_proj
attn_q_a_norm       self_attn.q_a_layernorm
attn_q_b            self_attn.q_b_proj
attn_kv_a_mqa       self_attn.kv_a_proj_with_mqa
attn_kv_a_norm      self_attn.kv_a_layernorm
"""

# GGUF has the two halves of kv_b_proj apart, the keys' one transposed.
_SPLIT = """
attn_kv_b           self_attn.kv_b_proj
attn_k_b.weight     self_attn.kv_b_proj.weight  (h +s) r -> h r s; h=heads s=key-nope
attn_v_b.weight     self_attn.kv_b_proj.weight  (h +s) r -> h s r; h=heads
"""

_MIXTURE = NORMS + ATTENTION + _LATENT + _SPLIT + MLP + EXPERTS + SHARED_EXPERTS + GATE_CORRECTION

# Kimi's linear attention, and its mixture, whose dense layers have other names.
_KIMI = """
ssm_a!              self_attn.A_log!         -exp
ssm_beta            self_attn.b_proj
ssm_dt.bias!        self_attn.dt_bias!
ssm_f_a             self_attn.f_a_proj
ssm_f_b             self_attn.f_b_proj
ssm_g_a             self_attn.g_a_proj
ssm_g_b             self_attn.g_b_proj
ssm_conv1d_q.weight self_attn.q_conv1d.weight  c 1 k -> 1 c 1 k
ssm_conv1d_k.weight self_attn.k_conv1d.weight  c 1 k -> 1 c 1 k
ssm_conv1d_v.weight self_attn.v_conv1d.weight  c 1 k -> 1 c 1 k
ssm_norm            self_attn.o_norm
exp_probs_b.bias!   block_sparse_moe.gate.e_score_correction_bias!
ffn_gate_shexp      block_sparse_moe.shared_experts.gate_proj
ffn_up_shexp        block_sparse_moe.shared_experts.up_proj
ffn_down_shexp      block_sparse_moe.shared_experts.down_proj
"""

_INDEXED = (
    _MIXTURE
    + NEXT_TOKENS
    + """
indexer.attn_k      self_attn.indexer.wk
indexer.attn_q_b    self_attn.indexer.wq_b
indexer.k_norm      self_attn.indexer.k_norm
indexer.proj        self_attn.indexer.weights_proj
"""
)

FAMILIES = (
    Family(
        "deepseek2",
        ("deepseek2",),
        (
            "DeepseekV2ForCausalLM",
            "DeepseekV3ForCausalLM",
            "Glm4MoeLiteForCausalLM",
            "YoutuForCausalLM",
        ),
        TOP,
        _MIXTURE,
    ),
    Family(
        "deepseek32",
        ("deepseek32",),
        ("DeepseekV32ForCausalLM",),
        TOP,
        _INDEXED,
    ),
    Family("glm-dsa", ("glm-dsa",), ("GlmMoeDsaForCausalLM",), TOP, _INDEXED),
    Family(
        "kimi-linear",
        ("kimi-linear",),
        ("KimiLinearForCausalLM",),
        TOP,
        NORMS + ATTENTION + _LATENT + _SPLIT + MLP + SPARSE_EXPERTS + _KIMI,
    ),
    Family(
        "mistral4",
        ("mistral4",),
        ("Mistral4ForCausalLM",),
        TOP,
        NORMS
        + ATTENTION
        + _LATENT
        + _SPLIT
        + MLP
        + SHARED_EXPERTS
        + """
ffn_gate_inp        mlp.gate
ffn_gate_up_exps.weight mlp.experts.gate_up_proj!
ffn_down_exps.weight mlp.experts.down_proj!
""",
    ),
    Family(
        "minicpm3",
        ("minicpm3",),
        ("MiniCPM3ForCausalLM",),
        TOP + LONG_FACTORS,
        NORMS
        + ATTENTION
        + _LATENT
        + MLP
        + """
attn_kv_b           self_attn.kv_b_proj
""",
    ),
)
