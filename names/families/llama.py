"""Llama, and dense models whose layers have its names."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    LONG_FACTORS,
    MLP,
    NEXT_TOKENS,
    NORMS,
    PARTLY_ROTARY,
    POST_NORMS,
    QK_NORMS,
    ROPED_ATTENTION,
    SPARSE_EXPERTS,
    TOP,
    plus_one,
)
from anamnesis.names.family import Family

_PLAIN = ATTENTION + MLP + NORMS
_GLM4 = """
attn_norm           input_layernorm
post_attention_norm post_self_attn_layernorm
ffn_norm            post_attention_layernorm
post_ffw_norm       post_mlp_layernorm
ffn_up              mlp.gate_up_proj
ffn_down            mlp.down_proj
"""
_ROPED = ROPED_ATTENTION + MLP + NORMS

_HUNYUAN = (
    _PLAIN
    + """
attn_q_norm         self_attn.query_layernorm
attn_k_norm         self_attn.key_layernorm
"""
)

# Rows of queries and keys are where they were: llama.cpp and bitnet.cpp turn halves of a head.
_BITNET = (
    _PLAIN
    + """
attn_sub_norm       self_attn.attn_sub_norm
ffn_sub_norm        mlp.ffn_sub_norm
"""
)
_ROUNDS = (
    "a layer of BitNet rounds what goes into it to 8 bits as it runs; what loads these weights as "
    "those of an ordinary Linear computes other numbers",
)

FAMILIES = (
    Family(
        "apertus",
        ("apertus",),
        ("ApertusForCausalLM",),
        TOP
        + """
xielu.alpha_n.{i}   {m}layers.{i}.mlp.act_fn.alpha_n!
xielu.alpha_p.{i}   {m}layers.{i}.mlp.act_fn.alpha_p!
xielu.beta.{i}      {m}layers.{i}.mlp.act_fn.beta!
xielu.eps.{i}       {m}layers.{i}.mlp.act_fn.eps!
""",
        ATTENTION
        + QK_NORMS
        + MLP
        + """
attn_norm           attention_layernorm
ffn_norm            feedforward_layernorm
""",
        arrays={"xielu.alpha_n": 1, "xielu.alpha_p": 1, "xielu.beta": 0, "xielu.eps": 0},
    ),
    Family("arcee", ("arcee",), ("ArceeForCausalLM",), TOP, _ROPED),
    Family(
        "baichuan",
        ("baichuan",),
        ("BaichuanForCausalLM", "BaiChuanForCausalLM"),
        TOP,
        MLP
        + NORMS
        + """
attn_q              self_attn.W_pack     (+h t d) c -> (h d t) c; t=2 h=heads
attn_k              self_attn.W_pack     (+h t d) c -> (h d t) c; t=2 h=heads
attn_v              self_attn.W_pack     (+h t d) c -> (h t d) c; t=2 h=heads
attn_output         self_attn.o_proj
""",
    ),
    Family(
        "bitnet",
        ("bitnet",),
        ("BitnetForCausalLM",),
        TOP,
        _BITNET,
        notes=_ROUNDS,
        only="to-hf",
    ),
    Family(
        "bitnet-b1.58",
        ("bitnet-b1.58", "bitnet-25"),
        ("BitNetForCausalLM",),
        TOP,
        _BITNET,
        notes=_ROUNDS,
        only="to-hf",
    ),
    Family(
        "chatglm",
        ("chatglm",),
        ("GlmForCausalLM",),
        TOP,
        ATTENTION
        + NORMS
        + """
ffn_up              mlp.gate_up_proj
ffn_down            mlp.down_proj
""",
    ),
    Family("command-r", ("command-r",), ("CohereForCausalLM",), TOP, _PLAIN + QK_NORMS),
    Family("cohere2", ("cohere2",), ("Cohere2ForCausalLM",), TOP, _PLAIN),
    Family("ernie4_5", ("ernie4_5",), ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"), TOP, _PLAIN),
    Family(
        "exaone",
        ("exaone",),
        ("ExaoneForCausalLM",),
        """
token_embd          transformer.wte
output_norm         transformer.ln_f
output              lm_head
rope_freqs          -
""",
        """
attn_q              attn.attention.q_proj
attn_k              attn.attention.k_proj
attn_v              attn.attention.v_proj
attn_output         attn.attention.out_proj
attn_norm           ln_1
ffn_norm            ln_2
ffn_gate            mlp.c_fc_0
ffn_up              mlp.c_fc_1
ffn_down            mlp.c_proj
""",
        layers="transformer.h.{i}.",
    ),
    Family(
        "exaone4",
        ("exaone4",),
        ("Exaone4ForCausalLM", "Exaone4_5_ForConditionalGeneration"),
        TOP,
        ATTENTION + QK_NORMS + MLP + POST_NORMS,
    ),
    Family(
        "glm4",
        ("glm4",),
        ("Glm4ForCausalLM",),
        TOP,
        ATTENTION + _GLM4,
    ),
    Family(
        "glm4v",
        ("glm4",),
        ("Glm4vForConditionalGeneration", "GlmOcrForConditionalGeneration"),
        TOP,
        PARTLY_ROTARY + _GLM4 + NEXT_TOKENS,
        said=("rope.dimension_sections",),
    ),
    Family("granite", ("granite",), ("GraniteForCausalLM",), TOP, _ROPED),
    Family(
        "hunyuan-dense",
        ("hunyuan-dense",),
        ("HunYuanDenseV1ForCausalLM",),
        TOP,
        _HUNYUAN,
    ),
    Family(
        "hunyuan-vl",
        ("hunyuan_vl",),
        ("HunYuanVLForConditionalGeneration",),
        TOP,
        _HUNYUAN,
    ),
    Family(
        "internlm2",
        ("internlm2",),
        ("InternLM2ForCausalLM",),
        """
token_embd          {m}tok_embeddings
output_norm         {m}norm
output              {h}output
rope_freqs          -
""",
        """
attn_q              attention.wqkv       (g +s t e) ... -> (g s e t) ...; t=2 g=heads-kv s=q-per-kv
attn_k              attention.wqkv       (g +s t e) ... -> (g s e t) ...; t=2 g=heads-kv s=1
attn_v              attention.wqkv       (g +s t e) ... -> (g s t e) ...; t=2 g=heads-kv s=1
attn_output         attention.wo
attn_norm           attention_norm
ffn_norm            ffn_norm
ffn_gate            feed_forward.w1
ffn_down            feed_forward.w2
ffn_up              feed_forward.w3
""",
    ),
    Family("jais2", ("jais2",), ("Jais2ForCausalLM",), TOP, _PLAIN),
    Family(
        "llama",
        ("llama",),
        (
            "LlamaForCausalLM",
            "LlamaModel",
            "MistralForCausalLM",
            "InternLM3ForCausalLM",
            "LLaMAForCausalLM",
            "VLlama3ForCausalLM",
            "IQuestCoderForCausalLM",
            "LlavaForConditionalGeneration",
            "Idefics3ForConditionalGeneration",
            "SmolVLMForConditionalGeneration",
        ),
        TOP,
        _ROPED,
        lacks=("blk.0.ffn_gate_exps.weight",),
    ),
    Family("minicpm", ("minicpm",), ("MiniCPMForCausalLM",), TOP + LONG_FACTORS, _ROPED),
    Family(
        "mistral3",
        ("mistral3",),
        ("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
        TOP,
        _ROPED,
    ),
    Family(
        "mixtral",
        ("llama",),
        ("MixtralForCausalLM",),
        TOP,
        ROPED_ATTENTION + NORMS + SPARSE_EXPERTS,
        has=("blk.0.ffn_gate_exps.weight",),
    ),
    # As files of the first months have it, before experts were stacked.
    Family(
        "mixtral-by-expert",
        ("llama",),
        ("MixtralForCausalLM",),
        TOP,
        ROPED_ATTENTION
        + NORMS
        + """
ffn_gate_inp        block_sparse_moe.gate
ffn_gate.{x}.weight block_sparse_moe.experts.{x}.w1.weight
ffn_down.{x}.weight block_sparse_moe.experts.{x}.w2.weight
ffn_up.{x}.weight   block_sparse_moe.experts.{x}.w3.weight
""",
        has=("blk.0.ffn_gate.0.weight",),
        only="to-hf",
    ),
    Family(
        "nemotron",
        ("nemotron",),
        ("NemotronForCausalLM",),
        plus_one(TOP),
        plus_one(NORMS) + ATTENTION + MLP,
    ),
    Family("olmo", ("olmo",), ("OlmoForCausalLM", "OLMoForCausalLM"), TOP, ROPED_ATTENTION + MLP),
    Family(
        "olmo2",
        ("olmo2",),
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        TOP,
        ATTENTION + QK_NORMS + MLP + POST_NORMS,
    ),
    Family("orion", ("orion",), ("OrionForCausalLM",), TOP, _PLAIN),
    Family("paddleocr", ("paddleocr",), ("PaddleOCRVLForConditionalGeneration",), TOP, _PLAIN),
    Family(
        "phi2",
        ("phi2",),
        ("PhiForCausalLM",),
        """
token_embd          model.embed_tokens
output_norm         model.final_layernorm
output              lm_head
""",
        """
attn_norm           input_layernorm
attn_q              self_attn.q_proj
attn_k              self_attn.k_proj
attn_v              self_attn.v_proj
attn_output         self_attn.dense
ffn_up              mlp.fc1
ffn_down            mlp.fc2
""",
    ),
    Family(
        "phi3",
        ("phi3",),
        ("Phi3ForCausalLM",),
        TOP + LONG_FACTORS,
        NORMS
        + """
attn_qkv            self_attn.qkv_proj
attn_output         self_attn.o_proj
ffn_up              mlp.gate_up_proj
ffn_down            mlp.down_proj
""",
    ),
    Family(
        "seed_oss",
        ("seed_oss",),
        ("SeedOssForCausalLM",),
        TOP,
        ATTENTION
        + MLP
        + """
attn_norm           input_layernorm
post_attention_norm post_attention_layernorm
""",
    ),
    Family("smollm3", ("smollm3",), ("SmolLM3ForCausalLM",), TOP, _ROPED),
    Family(
        "stablelm",
        ("stablelm",),
        ("StableLmForCausalLM", "StableLMEpochForCausalLM"),
        TOP,
        _PLAIN
        + """
attn_q_norm.weight  self_attn.q_layernorm.norms.{x}.weight
attn_k_norm.weight  self_attn.k_layernorm.norms.{x}.weight
""",
    ),
    Family(
        "starcoder2",
        ("starcoder2",),
        ("Starcoder2ForCausalLM",),
        TOP,
        ATTENTION
        + NORMS
        + """
ffn_up              mlp.c_fc
ffn_down            mlp.c_proj
""",
    ),
    Family("xverse", ("xverse",), ("XverseForCausalLM",), TOP, _ROPED),
)
