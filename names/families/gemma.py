"""Google's Gemma models."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    MLP,
    NORMS,
    QK_NORMS,
    SANDWICH_NORMS,
    TOP,
    plus_one,
)
from anamnesis.names.family import Family

_PER_LAYER_TOP = """
per_layer_token_embd  {m}embed_tokens_per_layer
per_layer_model_proj  {m}per_layer_model_projection
per_layer_proj_norm   {m}per_layer_projection_norm
"""

_PER_LAYER = """
inp_gate            per_layer_input_gate
proj                per_layer_projection
post_norm           post_per_layer_input_norm
"""

_LAYER = SANDWICH_NORMS + QK_NORMS + ATTENTION + MLP + _PER_LAYER

FAMILIES = (
    Family(
        "gemma", ("gemma",), ("GemmaForCausalLM",), plus_one(TOP), plus_one(NORMS) + ATTENTION + MLP
    ),
    Family(
        "gemma2",
        ("gemma2",),
        ("Gemma2ForCausalLM",),
        plus_one(TOP),
        plus_one(SANDWICH_NORMS) + ATTENTION + MLP,
    ),
    Family(
        "gemma3",
        ("gemma3",),
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        plus_one(TOP),
        plus_one(SANDWICH_NORMS + QK_NORMS) + ATTENTION + MLP,
    ),
    Family(
        "gemma-embedding",
        ("gemma-embedding",),
        ("Gemma3TextModel",),
        plus_one(TOP),
        plus_one(SANDWICH_NORMS + QK_NORMS) + ATTENTION + MLP,
        paths=(("", ""), ("model.", "")),
    ),
    Family(
        "gemma3n",
        ("gemma3n",),
        ("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
        TOP
        + _PER_LAYER_TOP
        + """
altup_proj.weight          {m}altup_projections.{x}.weight
altup_unembd_proj.weight   {m}altup_unembed_projections.{x}.weight
""",
        _LAYER
        + """
altup_correct_scale.weight altup.correct_output_scale!
altup_correct_coef         altup.correction_coefs
altup_router               altup.modality_router
altup_predict_coef         altup.prediction_coefs
altup_router_norm          altup.router_norm
laurel_l                   laurel.linear_left
laurel_r                   laurel.linear_right
laurel_post_norm           laurel.post_laurel_norm
""",
    ),
    Family(
        "gemma4",
        ("gemma4",),
        ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
        TOP + _PER_LAYER_TOP,
        _LAYER
        + """
layer_output_scale.weight  layer_scalar!
ffn_gate_up_exps.weight    experts.gate_up_proj!
ffn_down_exps.weight       experts.down_proj!
ffn_down_exps.scale!       router.per_expert_scale!
ffn_gate_inp               router.proj
ffn_gate_inp.scale!        router.scale!
post_ffw_norm_1            post_feedforward_layernorm_1
post_ffw_norm_2            post_feedforward_layernorm_2
pre_ffw_norm_2             pre_feedforward_layernorm_2
""",
        some_layers=("attn_k", "attn_v"),
    ),
)
