"""Multi-head latent attention: keys and values out of one low-rank projection."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    EXPERTS,
    GATE_CORRECTION,
    MLP,
    NORMS,
    SHARED_EXPERTS,
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
        NORMS + ATTENTION + _LATENT + _SPLIT + MLP + EXPERTS + SHARED_EXPERTS + GATE_CORRECTION,
    ),
    Family(
        "minicpm3",
        ("minicpm3",),
        ("MiniCPM3ForCausalLM",),
        TOP
        + """
rope_factors_long   -
rope_factors_short  -
""",
        NORMS
        + ATTENTION
        + _LATENT
        + MLP
        + """
attn_kv_b           self_attn.kv_b_proj
""",
    ),
)
