"""State-space models, and Nemotron-H, whose layers have their names."""

from __future__ import annotations

from anamnesis.names.family import Family

_TOP = """
token_embd          backbone.embeddings
output_norm         backbone.norm_f
output              lm_head
"""

_MIXER = """
attn_norm           norm
ssm_conv1d.weight   mixer.conv1d.weight   conv
ssm_conv1d.bias     mixer.conv1d.bias
ssm_in              mixer.in_proj
ssm_out             mixer.out_proj
"""

_MAMBA2 = (
    _MIXER
    + """
ssm_a!              mixer.A_log!          -exp column
ssm_d!              mixer.D!              column
ssm_dt.bias!        mixer.dt_bias!
ssm_norm.weight     mixer.norm.weight     grouped:ssm-groups
"""
)

FAMILIES = (
    Family(
        "mamba",
        ("mamba",),
        ("MambaForCausalLM", "FalconMambaForCausalLM"),
        _TOP,
        _MIXER
        + """
ssm_a!              mixer.A_log!          -exp
ssm_d!              mixer.D!
ssm_dt              mixer.dt_proj
ssm_x               mixer.x_proj
""",
        layers="backbone.layers.{i}.",
    ),
    Family(
        "mamba2", ("mamba2",), ("Mamba2ForCausalLM",), _TOP, _MAMBA2, layers="backbone.layers.{i}."
    ),
    Family(
        "nemotron_h",
        ("nemotron_h", "nemotron_h_moe"),
        ("NemotronHForCausalLM",),
        _TOP,
        _MAMBA2
        + """
attn_q              mixer.q_proj          rope-attention:heads
attn_k              mixer.k_proj          rope-attention:heads-kv
attn_v              mixer.v_proj
attn_output         mixer.o_proj
ffn_latent_down     mixer.fc1_latent_proj
ffn_latent_up       mixer.fc2_latent_proj
ffn_up              mixer.up_proj
ffn_down            mixer.down_proj
ffn_gate_inp        mixer.gate
ffn_up_exps         mixer.experts.{x}.up_proj
ffn_down_exps       mixer.experts.{x}.down_proj
ffn_up_shexp        mixer.shared_experts.up_proj
ffn_down_shexp      mixer.shared_experts.down_proj
exp_probs_b.bias!   mixer.gate.e_score_correction_bias!
""",
        layers="backbone.layers.{i}.",
    ),
)
