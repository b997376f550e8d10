"""GPT-2 and what followed it: one fused projection for q, k and v."""

from __future__ import annotations

from anamnesis.names.family import Family

_GPT2_TOP = """
token_embd          transformer.wte
position_embd       transformer.wpe
output_norm         transformer.ln_f
output              lm_head
"""

_GPT2 = """
attn_qkv            attn.c_attn
attn_output         attn.c_proj
attn_norm           ln_1
ffn_norm            ln_2
ffn_up              mlp.c_fc
ffn_down            mlp.c_proj
"""

_NEOX_MLP = """
ffn_up              mlp.dense_h_to_4h
ffn_down            mlp.dense_4h_to_h
"""

_WORD_TOP = """
token_embd          {m}word_embeddings
token_embd_norm     {m}word_embeddings_layernorm
output_norm         {m}ln_f
output              lm_head
"""

_TRANSFORMER = (("transformer.", ""),)

_FALCON = (
    _NEOX_MLP
    + """
attn_output         self_attention.dense
attn_qkv            self_attention.query_key_value  grouped-rows:heads-kv,q-per-kv,head-dim
attn_qkv            self_attention.query_key_value  grouped-rows:heads-kv,1,head-dim
attn_qkv            self_attention.query_key_value  grouped-rows:heads-kv,1,head-dim
"""
)

FAMILIES = (
    Family(
        "bloom",
        ("bloom",),
        ("BloomForCausalLM", "BloomModel"),
        _WORD_TOP,
        _NEOX_MLP
        + """
attn_norm           input_layernorm
ffn_norm            post_attention_layernorm
attn_output         self_attention.dense
attn_qkv            self_attention.query_key_value  by-head:heads
""",
        layers="{m}h.{i}.",
        paths=_TRANSFORMER,
    ),
    Family(
        "codeshell",
        ("codeshell",),
        ("CodeShellForCausalLM",),
        _GPT2_TOP,
        _GPT2 + "attn_rot_embd       -\n",
        layers="transformer.h.{i}.",
    ),
    Family(
        "falcon",
        ("falcon",),
        ("FalconForCausalLM",),
        _WORD_TOP,
        _FALCON
        + """
attn_norm           input_layernorm
""",
        layers="{m}h.{i}.",
        paths=_TRANSFORMER,
        lacks=("blk.0.attn_norm_2.weight",),
    ),
    Family(
        "falcon-40b",
        ("falcon",),
        ("FalconForCausalLM",),
        _WORD_TOP,
        _FALCON
        + """
attn_norm_2         ln_attn
attn_norm           ln_mlp
""",
        layers="{m}h.{i}.",
        paths=_TRANSFORMER,
        has=("blk.0.attn_norm_2.weight",),
    ),
    Family(
        "gpt2",
        ("gpt2",),
        ("GPT2LMHeadModel",),
        _GPT2_TOP,
        """
attn_qkv.weight     attn.c_attn.weight   transpose
attn_qkv.bias       attn.c_attn.bias
attn_output.weight  attn.c_proj.weight   transpose
attn_output.bias    attn.c_proj.bias
attn_norm           ln_1
ffn_norm            ln_2
ffn_up.weight       mlp.c_fc.weight      transpose
ffn_up.bias         mlp.c_fc.bias
ffn_down.weight     mlp.c_proj.weight    transpose
ffn_down.bias       mlp.c_proj.bias
""",
        layers="transformer.h.{i}.",
    ),
    Family(
        "gptneox",
        ("gptneox",),
        ("GPTNeoXForCausalLM",),
        """
token_embd          gpt_neox.embed_in
output_norm         gpt_neox.final_layer_norm
output              embed_out
""",
        _NEOX_MLP
        + """
attn_norm           input_layernorm
ffn_norm            post_attention_layernorm
attn_output         attention.dense
attn_qkv            attention.query_key_value  by-head:heads
""",
        layers="gpt_neox.layers.{i}.",
    ),
    Family(
        "mpt",
        ("mpt",),
        ("MPTForCausalLM", "MptForCausalLM"),
        """
token_embd          transformer.wte
position_embd       transformer.wpe
output_norm         transformer.norm_f
output              lm_head
""",
        """
attn_qkv            attn.Wqkv
attn_output         attn.out_proj
attn_q_norm         attn.q_ln
attn_k_norm         attn.k_ln
attn_norm           norm_1
ffn_norm            norm_2
ffn_up              ffn.up_proj
ffn_down            ffn.down_proj
""",
        layers="transformer.blocks.{i}.",
    ),
    Family(
        "starcoder",
        ("starcoder",),
        ("GPTBigCodeForCausalLM",),
        _GPT2_TOP,
        _GPT2,
        layers="transformer.h.{i}.",
    ),
)
