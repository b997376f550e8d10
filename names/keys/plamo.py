"""PLaMo: attention, hybrids, and windows."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import BASE, COMMON, RMS, SIZES, VOCABULARY

_HEAD = "hidden_size_per_head|=128"
_END = {"eot": 4}  # <|plamo:op|>

KEYS = (
    Keys(
        ("PlamoForCausalLM",),
        SIZES + RMS + "context_length =4096\nattention.head_count_kv =5\n",
    ),
    Keys(
        ("PLaMo2ForCausalLM", "Plamo2ForCausalLM"),
        SIZES
        + BASE
        + RMS
        + VOCABULARY
        + f"""
context_length           max_position_embeddings|=2048
attention.head_count     @stepped:num_attention_heads,32
attention.head_count_kv  @stepped:num_key_value_heads,4
attention.key_length     {_HEAD}
attention.value_length   {_HEAD}
rope.freq_base           @rope:rope_theta|=10000.0
ssm.conv_kernel          mamba_d_conv|=4
ssm.group_count          =0
ssm.inner_size           mamba_num_heads*hidden_size_per_head|=8192
ssm.state_size           mamba_d_state|=64
ssm.time_step_rank       mamba_num_heads|=64
""",
        tokens=_END,
        vocabulary="plamo",
    ),
    Keys(
        ("PLaMo3ForCausalLM", "Plamo3ForCausalLM"),
        COMMON
        + VOCABULARY
        + """
attention.sliding_window window_size|sliding_window
attention.sliding_window_pattern sliding_window_pattern
""",
        tokens=_END,
        vocabulary="plamo-chat",
    ),
)
