"""PLaMo, whose layers lie in `model.layers.layers`: attention, hybrids, and windows."""

from __future__ import annotations

from anamnesis.names.families._blocks import MLP, TOP, plus_one
from anamnesis.names.family import Family

_LAYERS = "{m}layers.layers.{i}."

# Norms are stored with what is added to their weights, that of a fifth for each later one.
_NORMS = """
attn_norm.weight      pre_mixer_norm.weight   +1
post_attention_norm!  post_mixer_norm.weight  +1/5
ffn_norm.weight       pre_mlp_norm.weight     +1
post_ffw_norm!        post_mlp_norm.weight    +1/5^1.5
"""
_FUSED = """
attn_qkv            mixer.qkv_proj
attn_output         mixer.o_proj
ffn_up              mlp.gate_up_proj
ffn_down            mlp.down_proj
"""

FAMILIES = (
    Family(
        "plamo",
        ("plamo",),
        ("PlamoForCausalLM",),
        TOP,
        MLP
        + """
attn_norm           norm
attn_q              self_attn.q_proj      rows:q-per-kv,heads-kv,head-dim
attn_k              self_attn.k_proj
attn_v              self_attn.v_proj
attn_output.weight  self_attn.o_proj.weight  columns:q-per-kv,heads-kv,head-dim
attn_rot_embd       -
""",
        layers=_LAYERS,
    ),
    Family(
        "plamo2",
        ("plamo2",),
        ("Plamo2ForCausalLM", "PLaMo2ForCausalLM"),
        plus_one(TOP),
        _NORMS
        + _FUSED
        + """
attn_q_norm.weight  mixer.q_weight!
attn_k_norm.weight  mixer.k_weight!
ssm_in              mixer.in_proj
ssm_conv1d.weight   mixer.conv1d.weight   conv
ssm_x               mixer.bcdt_proj
ssm_dt.weight       mixer.dt_proj.weight
ssm_dt.bias!        mixer.dt_bias!
ssm_dt_norm!        mixer.dt_norm_weight!
ssm_a!              mixer.A_log!          -exp
ssm_b_norm!         mixer.B_norm_weight!
ssm_c_norm!         mixer.C_norm_weight!
ssm_d!              mixer.D!
ssm_out             mixer.out_proj
""",
        layers=_LAYERS,
    ),
    Family(
        "plamo3",
        ("plamo3",),
        ("Plamo3ForCausalLM", "PLaMo3ForCausalLM"),
        plus_one(TOP),
        _NORMS
        + _FUSED
        + """
attn_q_norm.weight  mixer.q_norm.weight   +1
attn_k_norm.weight  mixer.k_norm.weight   +1
""",
        layers=_LAYERS,
    ),
)
