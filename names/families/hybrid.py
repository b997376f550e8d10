"""Attention beside state-space layers, or short convolutions."""

from __future__ import annotations

from anamnesis.names.families._blocks import ATTENTION, TOP
from anamnesis.names.families.mixture import DENSE_LINEAR, INPUT_LINEAR, SHARED_LINEAR
from anamnesis.names.family import Family

_FINAL_TOP = """
token_embd          model.embed_tokens
output_norm         model.final_layernorm
output              lm_head
"""

_FEED_FORWARD = """
ffn_gate            feed_forward.gate_proj
ffn_up              feed_forward.up_proj
ffn_down            feed_forward.down_proj
"""

_CONVOLUTION = """
ssm_conv1d.weight   mamba.conv1d.weight   conv
ssm_conv1d.bias     mamba.conv1d.bias
"""

_MAMBA = (
    _CONVOLUTION
    + """
ssm_in              mamba.in_proj
ssm_out             mamba.out_proj
"""
)

_STATES = """
ssm_a!              mamba.A_log!          -exp column
ssm_d!              mamba.D!              column
ssm_dt.bias!        mamba.dt_bias!
ssm_norm.weight     mamba.norm.weight     grouped:ssm-groups
"""
_MAMBA2 = _MAMBA + _STATES

# Falcon-H1's, multiplied with the settings of its configuration.
_MULTIPLIED = (
    _CONVOLUTION
    + _STATES
    + """
attn_q              self_attn.q_proj      scaled:attention_in_multiplier
attn_k              self_attn.k_proj      scaled:key_multiplier,attention_in_multiplier
attn_v              self_attn.v_proj      scaled:attention_in_multiplier
attn_output         self_attn.o_proj      scaled:attention_out_multiplier
ffn_gate            feed_forward.gate_proj scaled:mlp_multipliers.0
ffn_up              feed_forward.up_proj
ffn_down            feed_forward.down_proj scaled:mlp_multipliers.1
ssm_in.weight mamba.in_proj.weight part:ssm-inner scaled:ssm_in_multiplier,ssm_multipliers.0
ssm_in.weight mamba.in_proj.weight part:ssm-inner scaled:ssm_in_multiplier,ssm_multipliers.1
ssm_in.weight mamba.in_proj.weight part:ssm-states scaled:ssm_in_multiplier,ssm_multipliers.2
ssm_in.weight mamba.in_proj.weight part:ssm-states scaled:ssm_in_multiplier,ssm_multipliers.3
ssm_in.weight mamba.in_proj.weight part:ssm-heads scaled:ssm_in_multiplier,ssm_multipliers.4
ssm_out             mamba.out_proj        scaled:ssm_out_multiplier
"""
)

_HYBRID_ATTENTION = """
attn_norm           input_layernorm
attn_q              self_attn.q_proj      rope-attention:heads
attn_k              self_attn.k_proj      rope-attention:heads-kv
attn_v              self_attn.v_proj
attn_output         self_attn.o_proj
"""

_SHORT_CONVOLUTION = """
attn_norm           operator_norm
ffn_norm            ffn_norm
shortconv.conv.weight conv.conv.weight    conv
shortconv.conv.bias conv.conv.bias
shortconv.in_proj   conv.in_proj
shortconv.out_proj  conv.out_proj
attn_q              self_attn.q_proj
attn_k              self_attn.k_proj
attn_v              self_attn.v_proj
attn_output         self_attn.out_proj
attn_q_norm         self_attn.q_layernorm
attn_k_norm         self_attn.k_layernorm
ffn_gate            feed_forward.w1
ffn_down            feed_forward.w2
ffn_up              feed_forward.w3
"""

_LFM2_TOP = """
token_embd          {m}embed_tokens
token_embd_norm     {m}embedding_norm
output              {h}lm_head
"""

FAMILIES = (
    Family(
        "bamba",
        ("granitehybrid",),
        ("BambaForCausalLM",),
        _FINAL_TOP,
        _HYBRID_ATTENTION
        + _FEED_FORWARD
        + _MAMBA2
        + """
ffn_norm            pre_ff_layernorm
""",
        has=("blk.0.ffn_gate.weight",),
        lacks=("blk.0.ffn_gate_shexp.weight",),
    ),
    Family(
        "falcon-h1",
        ("falcon-h1",),
        ("FalconH1ForCausalLM",),
        """
token_embd          model.embed_tokens    scaled:embedding_multiplier
output_norm         model.final_layernorm
output              lm_head               scaled:lm_head_multiplier
""",
        _MULTIPLIED
        + """
attn_norm           input_layernorm
ffn_norm!           pre_ff_layernorm.weight
""",
        notes=(
            "the converter multiplied weights with the model's multipliers, which the file does "
            "not have: they stay multiplied, config.json has 1 for each, and the model computes "
            "the same but for rounding",
        ),
    ),
    # Of Granite's hybrids, models of attention alone, without experts and with them.
    Family(
        "granite-attention",
        ("granite",),
        ("GraniteMoeHybridForCausalLM",),
        TOP,
        _HYBRID_ATTENTION + DENSE_LINEAR + "ffn_norm post_attention_layernorm\n",
        only="to-gguf",
    ),
    Family(
        "granite-attention-moe",
        ("granitemoe",),
        ("GraniteMoeHybridForCausalLM",),
        TOP,
        _HYBRID_ATTENTION + INPUT_LINEAR + SHARED_LINEAR + "ffn_norm post_attention_layernorm\n",
        only="to-gguf",
    ),
    Family(
        "granitehybrid",
        ("granitehybrid",),
        ("GraniteMoeHybridForCausalLM",),
        TOP,
        _HYBRID_ATTENTION
        + _MAMBA2
        + INPUT_LINEAR
        + SHARED_LINEAR
        + """
ffn_norm            post_attention_layernorm
""",
    ),
    Family(
        "jamba",
        ("jamba",),
        ("JambaForCausalLM",),
        _FINAL_TOP,
        ATTENTION
        + _FEED_FORWARD
        + _MAMBA
        + """
attn_norm           input_layernorm
ffn_norm            pre_ff_layernorm
ssm_a!              mamba.A_log!          -exp
ssm_d!              mamba.D!
ssm_b_norm          mamba.b_layernorm
ssm_c_norm          mamba.c_layernorm
ssm_dt_norm         mamba.dt_layernorm
ssm_dt              mamba.dt_proj
ssm_x               mamba.x_proj
ffn_gate_inp        feed_forward.router
ffn_gate_exps       feed_forward.experts.{x}.gate_proj
ffn_up_exps         feed_forward.experts.{x}.up_proj
ffn_down_exps       feed_forward.experts.{x}.down_proj
""",
    ),
    Family(
        "lfm2",
        ("lfm2",),
        ("Lfm2ForCausalLM", "LFM2ForCausalLM", "Lfm2Model", "Lfm2VlForConditionalGeneration"),
        _LFM2_TOP,
        _SHORT_CONVOLUTION,
    ),
    Family(
        "lfm2moe",
        ("lfm2moe",),
        ("Lfm2MoeForCausalLM",),
        _LFM2_TOP,
        _SHORT_CONVOLUTION
        + """
exp_probs_b.bias!   feed_forward.expert_bias!
ffn_gate_inp        feed_forward.gate
ffn_gate_exps       feed_forward.experts.{x}.w1
ffn_down_exps       feed_forward.experts.{x}.w2
ffn_up_exps         feed_forward.experts.{x}.w3
""",
    ),
)
