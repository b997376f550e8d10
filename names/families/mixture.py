"""Mixtures of experts."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    EXPERTS,
    GATE_CORRECTION,
    LONG_FACTORS,
    MLP,
    NEXT_TOKENS,
    NORMS,
    QK_NORMS,
    ROPED_ATTENTION,
    SHARED_EXPERTS,
    SPARSE_EXPERTS,
    TOP,
)
from anamnesis.names.family import Family

# Gate and up of all experts in one tensor, gate first.
INPUT_LINEAR = """
ffn_gate_inp        block_sparse_moe.router.layer
ffn_gate_exps.weight block_sparse_moe.input_linear.weight  e +r c -> e r c
ffn_up_exps.weight  block_sparse_moe.input_linear.weight  e +r c -> e r c
ffn_down_exps       block_sparse_moe.output_linear
"""

SHARED_LINEAR = """
ffn_gate_shexp.weight shared_mlp.input_linear.weight  +r c -> r c
ffn_up_shexp.weight shared_mlp.input_linear.weight  +r c -> r c
ffn_down_shexp      shared_mlp.output_linear
"""

DENSE_LINEAR = """
ffn_gate.weight     shared_mlp.input_linear.weight  +r c -> r c
ffn_up.weight       shared_mlp.input_linear.weight  +r c -> r c
ffn_down            shared_mlp.output_linear
"""

FAMILIES = (
    Family(
        "afmoe",
        ("afmoe",),
        ("AfmoeForCausalLM",),
        TOP,
        ATTENTION
        + QK_NORMS
        + MLP
        + SHARED_EXPERTS
        + """
attn_norm           input_layernorm
post_attention_norm post_attention_layernorm
ffn_norm            pre_mlp_layernorm
post_ffw_norm       post_mlp_layernorm
attn_gate           self_attn.gate_proj
exp_probs_b.bias!   mlp.expert_bias!
ffn_gate_inp        mlp.router.gate
ffn_gate_exps       mlp.experts.{x}.gate_proj
ffn_up_exps         mlp.experts.{x}.up_proj
ffn_down_exps       mlp.experts.{x}.down_proj
""",
    ),
    Family(
        "arctic",
        ("arctic",),
        ("ArcticForCausalLM",),
        TOP,
        ROPED_ATTENTION
        + SPARSE_EXPERTS
        + """
attn_norm           input_layernorm
ffn_norm_exps       post_attention_layernorm
ffn_norm            residual_layernorm
ffn_gate            residual_mlp.w1
ffn_down            residual_mlp.w2
ffn_up              residual_mlp.w3
""",
    ),
    Family(
        "cohere2moe",
        ("cohere2moe",),
        ("Cohere2MoeForCausalLM",),
        TOP,
        ATTENTION
        + MLP
        + EXPERTS
        + SHARED_EXPERTS
        + """
attn_norm           input_layernorm
""",
    ),
    Family(
        "dbrx",
        ("dbrx",),
        ("DbrxForCausalLM",),
        """
token_embd          transformer.wte
output_norm         transformer.norm_f
output              lm_head
""",
        """
ffn_gate_exps.weight ffn.experts.mlp.w1!  experts:experts
ffn_up_exps.weight  ffn.experts.mlp.v1!  experts:experts
ffn_down_exps.weight ffn.experts.mlp.w2!  experts-transposed:experts
ffn_gate_inp        ffn.router.layer
attn_qkv            norm_attn_norm.attn.Wqkv
attn_output         norm_attn_norm.attn.out_proj
attn_norm           norm_attn_norm.norm_1
attn_output_norm    norm_attn_norm.norm_2
""",
        layers="transformer.blocks.{i}.",
    ),
    Family(
        "dots1",
        ("dots1",),
        ("Dots1ForCausalLM",),
        TOP,
        NORMS + ATTENTION + QK_NORMS + MLP + EXPERTS + SHARED_EXPERTS + GATE_CORRECTION,
    ),
    Family(
        "ernie4_5-moe",
        ("ernie4_5-moe",),
        ("Ernie4_5_MoeForCausalLM",),
        TOP,
        NORMS
        + ATTENTION
        + MLP
        + EXPERTS
        + SHARED_EXPERTS
        + """
exp_probs_b.bias!   mlp.moe_statics.e_score_correction_bias!
""",
    ),
    Family(
        "exaone-moe",
        ("exaone-moe",),
        ("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
        TOP,
        NORMS
        + ATTENTION
        + QK_NORMS
        + MLP
        + EXPERTS
        + SHARED_EXPERTS
        + """
exp_probs_b.bias!   mlp.e_score_correction_bias!
""",
    ),
    Family(
        "glm4moe",
        ("glm4moe",),
        ("Glm4MoeForCausalLM", "SolarOpenForCausalLM", "Glm4vMoeForConditionalGeneration"),
        TOP,
        ATTENTION
        + QK_NORMS
        + MLP
        + EXPERTS
        + SHARED_EXPERTS
        + GATE_CORRECTION
        + NEXT_TOKENS
        + """
attn_norm           input_layernorm
post_attention_norm post_attention_layernorm
""",
    ),
    Family(
        "gpt-oss",
        ("gpt-oss",),
        ("GptOssForCausalLM",),
        TOP,
        ATTENTION
        + """
attn_norm           input_layernorm
post_attention_norm post_attention_layernorm
attn_sinks.weight   self_attn.sinks!
ffn_gate_inp        mlp.router
ffn_gate_exps.weight mlp.experts.gate_up_proj!       e c (f +t) -> e f c; t=1
ffn_up_exps.weight  mlp.experts.gate_up_proj!       e c (f +t) -> e f c; t=1
ffn_down_exps.weight mlp.experts.down_proj!          transpose-last
ffn_gate_exps.bias  mlp.experts.gate_up_proj_bias!  e (f +t) -> e f; t=1
ffn_up_exps.bias    mlp.experts.gate_up_proj_bias!  e (f +t) -> e f; t=1
ffn_down_exps.bias  mlp.experts.down_proj_bias!
""",
    ),
    Family(
        "granitemoe",
        ("granitemoe",),
        ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        TOP,
        NORMS + ROPED_ATTENTION + INPUT_LINEAR + SHARED_LINEAR,
    ),
    Family(
        "hunyuan-moe",
        ("hunyuan-moe",),
        ("HunYuanMoEV1ForCausalLM",),
        TOP,
        NORMS
        + ATTENTION
        + """
attn_q_norm         self_attn.query_layernorm
attn_k_norm         self_attn.key_layernorm
ffn_gate_inp        mlp.gate.wg
ffn_gate_exps       mlp.experts.{x}.gate_proj
ffn_up_exps         mlp.experts.{x}.up_proj
ffn_down_exps       mlp.experts.{x}.down_proj
ffn_gate_shexp      mlp.shared_mlp.gate_proj
ffn_up_shexp        mlp.shared_mlp.up_proj
ffn_down_shexp      mlp.shared_mlp.down_proj
""",
    ),
    Family(
        "llama4",
        ("llama4",),
        ("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
        TOP,
        NORMS
        + ATTENTION
        + """
ffn_gate            feed_forward.gate_proj
ffn_up              feed_forward.up_proj
ffn_down            feed_forward.down_proj
ffn_gate_inp        feed_forward.router
ffn_gate_exps.weight feed_forward.experts.gate_up_proj!  e c +f -> e f c
ffn_up_exps.weight  feed_forward.experts.gate_up_proj!  e c +f -> e f c
ffn_down_exps.weight feed_forward.experts.down_proj!     transpose-last
ffn_gate_shexp      feed_forward.shared_expert.gate_proj
ffn_up_shexp        feed_forward.shared_expert.up_proj
ffn_down_shexp      feed_forward.shared_expert.down_proj
""",
    ),
    Family(
        "mellum",
        ("mellum",),
        ("MellumForCausalLM",),
        TOP,
        NORMS + ATTENTION + QK_NORMS + MLP + EXPERTS,
    ),
    Family(
        "minimax-m2",
        ("minimax-m2",),
        ("MiniMaxM2ForCausalLM",),
        TOP,
        NORMS
        + ATTENTION
        + QK_NORMS
        + SPARSE_EXPERTS
        + """
exp_probs_b.bias!   block_sparse_moe.e_score_correction_bias!
""",
    ),
    Family("olmoe", ("olmoe",), ("OlmoeForCausalLM",), TOP, NORMS + ATTENTION + QK_NORMS + EXPERTS),
    Family(
        "phimoe",
        ("phimoe",),
        ("PhiMoEForCausalLM", "PhimoeForCausalLM"),
        TOP + LONG_FACTORS,
        NORMS + ATTENTION + SPARSE_EXPERTS,
    ),
)
