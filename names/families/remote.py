"""Models whose code lies beside their weights, with the names of Llama's and Qwen's layers."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    EXPERTS,
    MLP,
    NEXT_TOKENS,
    NORMS,
    QK_NORMS,
    ROPED_ATTENTION,
    SHARED_EXPERTS,
    TOP,
)
from anamnesis.names.family import Family

# Ling's and Ring's: names of their own around a mixture's.
_LING_TOP = TOP.replace("embed_tokens", "word_embeddings")

FAMILIES = (
    Family(
        "bailingmoe",
        ("bailingmoe",),
        ("BailingMoeForCausalLM",),
        _LING_TOP,
        NORMS
        + EXPERTS
        + SHARED_EXPERTS
        + """
attn_q.weight       attention.query_key_value.weight  (+h t d) c -> (h d t) c; t=2 h=heads
attn_k.weight       attention.query_key_value.weight  (+h t d) c -> (h d t) c; t=2 h=heads-kv
attn_v.weight       attention.query_key_value.weight  (+h t d) c -> (h t d) c; t=2 h=heads-kv
attn_output         attention.dense
""",
    ),
    Family(
        "bailingmoe2",
        ("bailingmoe2",),
        ("BailingMoeV2ForCausalLM",),
        _LING_TOP,
        NORMS
        + MLP
        + EXPERTS
        + SHARED_EXPERTS
        + NEXT_TOKENS
        + """
attn_qkv            attention.query_key_value
attn_output         attention.dense
attn_q_norm         attention.query_layernorm
attn_k_norm         attention.key_layernorm
exp_probs_b.bias!   mlp.gate.expert_bias!
layer_output_norm   final_layernorm
""",
        some_layers=("layer_output_norm.",),
    ),
    Family(
        "deci",
        ("deci",),
        ("DeciLMForCausalLM",),
        TOP,
        ROPED_ATTENTION + MLP + NORMS,
        some_layers=("attn_", "ffn_"),
    ),
    Family(
        "deepseek",
        ("deepseek",),
        ("DeepseekForCausalLM",),
        TOP,
        ROPED_ATTENTION + NORMS + MLP + EXPERTS + SHARED_EXPERTS,
    ),
    Family("dream", ("dream",), ("DreamModel",), TOP, ATTENTION + MLP + NORMS),
    Family(
        "grovemoe",
        ("grovemoe",),
        ("GroveMoeForCausalLM",),
        TOP,
        ATTENTION
        + QK_NORMS
        + NORMS
        + EXPERTS
        + """
ffn_gate_chexps     mlp.chunk_experts.{x}.gate_proj
ffn_up_chexps       mlp.chunk_experts.{x}.up_proj
ffn_down_chexps     mlp.chunk_experts.{x}.down_proj
""",
    ),
    Family(
        "llada",
        ("llada",),
        ("LLaDAModelLM",),
        """
token_embd          model.transformer.wte
output_norm         model.transformer.ln_f
output              model.transformer.ff_out
rope_freqs          -
""",
        """
attn_q              q_proj                rope:heads
attn_k              k_proj                rope:heads-kv
attn_v              v_proj
attn_output         attn_out
attn_norm           attn_norm
ffn_norm            ff_norm
ffn_gate            ff_proj
ffn_up              up_proj
ffn_down            ff_out
""",
        layers="model.transformer.blocks.{i}.",
    ),
    Family(
        "llada-moe",
        ("llada-moe",),
        ("LLaDAMoEModelLM", "LLaDAMoEModel"),
        TOP,
        ATTENTION + QK_NORMS + NORMS + EXPERTS,
    ),
    Family(
        "maincoder",
        ("maincoder",),
        ("MaincoderForCausalLM",),
        TOP,
        ATTENTION + QK_NORMS + MLP + NORMS,
    ),
    Family(
        "pangu-embedded",
        ("pangu-embedded",),
        ("PanguEmbeddedForCausalLM",),
        TOP,
        ATTENTION + MLP + NORMS,
    ),
    Family("rnd1", ("rnd1",), ("RND1",), TOP, ATTENTION + QK_NORMS + NORMS + EXPERTS),
    Family(
        "smallthinker",
        ("smallthinker",),
        ("SmallThinkerForCausalLM",),
        TOP,
        ATTENTION
        + NORMS
        + """
ffn_gate_inp        block_sparse_moe.primary_router
ffn_gate_exps       block_sparse_moe.experts.{x}.gate
ffn_up_exps         block_sparse_moe.experts.{x}.up
ffn_down_exps       block_sparse_moe.experts.{x}.down
""",
    ),
)
