"""Models of the first years, and small ones, with names of their own around a usual layer."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    MLP,
    NORMS,
    ROPED_ATTENTION,
    TOP,
)
from anamnesis.names.family import Family

_TRANSFORMER = """
token_embd          transformer.wte
output_norm         transformer.ln_f
output              lm_head
rope_freqs          -
"""

FAMILIES = (
    # As its first files have it: one projection for queries, keys and values, split here.
    Family(
        "chatglm-fused",
        ("chatglm",),
        ("GlmForCausalLM",),
        TOP,
        NORMS
        + """
attn_qkv            self_attn.q_proj      (h d) ... -> +(h d) ...; h=heads d=head-dim
attn_qkv            self_attn.k_proj      (h d) ... -> +(h d) ...; h=heads-kv d=head-dim
attn_qkv            self_attn.v_proj      (h d) ... -> +(h d) ...; h=heads-kv d=head-dim
attn_output         self_attn.o_proj
ffn_up              mlp.gate_up_proj
ffn_down            mlp.down_proj
""",
        has=("blk.0.attn_qkv.weight",),
        only="to-hf",
    ),
    # Its files are read as those of Qwen2, which computes the same.
    Family(
        "kormo",
        ("qwen2",),
        ("KORMoForCausalLM",),
        TOP,
        ATTENTION
        + MLP
        + """
attn_norm           pre_attention_layernorm
ffn_norm            pre_mlp_layernorm
""",
        only="to-gguf",
    ),
    Family(
        "llama-embed",
        ("llama-embed",),
        ("LlamaBidirectionalModel",),
        TOP,
        ROPED_ATTENTION + MLP + NORMS,
        paths=(("", ""), ("model.", "")),
    ),
    Family(
        "openelm",
        ("openelm",),
        ("OpenELMForCausalLM",),
        """
token_embd          transformer.token_embeddings
output_norm         transformer.norm
output              lm_head
""",
        """
attn_qkv            attn.qkv_proj
attn_q_norm         attn.q_norm
attn_k_norm         attn.k_norm
attn_output         attn.out_proj
attn_norm           attn_norm
ffn_norm            ffn_norm
ffn_gate.weight     ffn.proj_1.weight     +r c -> r c
ffn_up.weight       ffn.proj_1.weight     +r c -> r c
ffn_down            ffn.proj_2
""",
        layers="transformer.layers.{i}.",
    ),
    Family(
        "plm",
        ("plm",),
        ("PLMForCausalLM",),
        TOP,
        NORMS
        + MLP
        + """
attn_q              self_attn.q_proj
attn_kv_a_mqa       self_attn.kv_a_proj_with_mqa
attn_kv_a_norm      self_attn.kv_a_layernorm
attn_kv_b           self_attn.kv_b_proj
attn_output         self_attn.o_proj
""",
    ),
    Family(
        "qwen",
        ("qwen",),
        ("QWenLMHeadModel",),
        _TRANSFORMER,
        """
attn_qkv            attn.c_attn
attn_output         attn.c_proj
attn_norm           ln_1
ffn_norm            ln_2
ffn_up              mlp.w1
ffn_gate            mlp.w2
ffn_down            mlp.c_proj
""",
        layers="transformer.h.{i}.",
    ),
    Family(
        "refact",
        ("refact",),
        ("GPTRefactForCausalLM",),
        _TRANSFORMER.replace("transformer.ln_f", "ln_f"),
        """
attn_q              attn.q
attn_k.weight       attn.kv.weight        +r c -> r c
attn_v.weight       attn.kv.weight        +r c -> r c
attn_output         attn.c_proj
attn_norm           ln_1
ffn_norm            ln_2
ffn_gate.weight     mlp.gate_up_proj.weight +r c -> r c
ffn_up.weight       mlp.gate_up_proj.weight +r c -> r c
ffn_down            mlp.c_proj
""",
        layers="transformer.h.{i}.",
    ),
)
