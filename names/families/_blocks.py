"""Rows that many architectures share."""

from __future__ import annotations

TOP = """
token_embd          {m}embed_tokens
output_norm         {m}norm
output              {h}lm_head
rope_freqs          -
"""

# Of rotary embeddings that are scaled for long texts, and for short ones.
LONG_FACTORS = """
rope_factors_long   -
rope_factors_short  -
"""

ATTENTION = """
attn_q              self_attn.q_proj
attn_k              self_attn.k_proj
attn_v              self_attn.v_proj
attn_output         self_attn.o_proj
"""

ROPED_ATTENTION = """
attn_q              self_attn.q_proj      rope:heads
attn_k              self_attn.k_proj      rope:heads-kv
attn_v              self_attn.v_proj
attn_output         self_attn.o_proj
"""

PARTLY_ROTARY = """
attn_q              self_attn.q_proj      rotary-part:heads
attn_q              self_attn.q_proj      unrotary-part:heads
attn_k              self_attn.k_proj      rotary-part:heads-kv
attn_k              self_attn.k_proj      unrotary-part:heads-kv
attn_v              self_attn.v_proj
attn_output         self_attn.o_proj
"""

QK_NORMS = """
attn_q_norm         self_attn.q_norm
attn_k_norm         self_attn.k_norm
"""

NORMS = """
attn_norm           input_layernorm
ffn_norm            post_attention_layernorm
"""

SANDWICH_NORMS = """
attn_norm           input_layernorm
post_attention_norm post_attention_layernorm
ffn_norm            pre_feedforward_layernorm
post_ffw_norm       post_feedforward_layernorm
"""

POST_NORMS = """
post_attention_norm post_attention_layernorm
post_ffw_norm       post_feedforward_layernorm
"""

MLP = """
ffn_gate            mlp.gate_proj
ffn_up              mlp.up_proj
ffn_down            mlp.down_proj
"""

EXPERTS = """
ffn_gate_inp        mlp.gate
ffn_gate_exps       mlp.experts.{x}.gate_proj
ffn_up_exps         mlp.experts.{x}.up_proj
ffn_down_exps       mlp.experts.{x}.down_proj
"""

# Mixtral's names of them.
SPARSE_EXPERTS = """
ffn_gate_inp        block_sparse_moe.gate
ffn_gate_exps       block_sparse_moe.experts.{x}.w1
ffn_down_exps       block_sparse_moe.experts.{x}.w2
ffn_up_exps         block_sparse_moe.experts.{x}.w3
"""

SHARED_EXPERTS = """
ffn_gate_shexp      mlp.shared_experts.gate_proj
ffn_up_shexp        mlp.shared_experts.up_proj
ffn_down_shexp      mlp.shared_experts.down_proj
"""

SHARED_EXPERT = """
ffn_gate_inp_shexp  mlp.shared_expert_gate
ffn_gate_shexp      mlp.shared_expert.gate_proj
ffn_up_shexp        mlp.shared_expert.up_proj
ffn_down_shexp      mlp.shared_expert.down_proj
"""

# A layer that only predicts further tokens, after those of the model.
NEXT_TOKENS = """
nextn.eh_proj       eh_proj
nextn.embed_tokens  embed_tokens
nextn.enorm         enorm
nextn.hnorm         hnorm
nextn.shared_head_head shared_head.head
nextn.shared_head_norm shared_head.norm
"""

GATE_CORRECTION = """
exp_probs_b.bias!   mlp.gate.e_score_correction_bias!
"""


def plus_one(rows: str, *but: str) -> str:
    """The same rows for an architecture whose norms are stored with 1 added to their weights."""
    changed = []
    for line in filter(str.strip, rows.splitlines()):
        name, hf = line.split()[:2]
        if name not in but and "norm" in name:
            changed += [f"{name}.weight {hf}.weight +1", f"{name}.bias {hf}.bias"]
        else:
            changed.append(line)
    return "\n".join(changed) + "\n"
