"""Google's Gemma models."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import COMMON, HEAD, PATTERN, RMS, SIZES, WINDOW

_NO_SPACE = "tokenizer.ggml.add_space_prefix =false\n"
_KV = "attention.head_count_kv num_key_value_heads|num_attention_heads\n"
_GEMMA3 = (
    COMMON
    + _NO_SPACE
    + """
final_logit_softcapping  final_logit_softcapping
attention.sliding_window @window-unless-one
"""
)

KEYS = (
    Keys(
        ("GemmaForCausalLM",),
        SIZES + RMS + HEAD + _KV + _NO_SPACE,
        tokens={"eot": 107},
        head="never",
    ),
    Keys(
        ("Gemma2ForCausalLM",),
        SIZES
        + RMS
        + HEAD
        + _KV
        + WINDOW
        + _NO_SPACE
        + """
attn_logit_softcapping   attn_logit_softcapping
final_logit_softcapping  final_logit_softcapping
""",
        head="never",
    ),
    Keys(("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"), _GEMMA3),
    Keys(
        ("Gemma3nForCausalLM",),
        _GEMMA3
        + PATTERN
        + """
altup.active_idx         altup_active_idx
altup.num_inputs         altup_num_inputs
embedding_length_per_layer_input hidden_size_per_layer_input
attention.shared_kv_layers num_kv_shared_layers
activation_sparsity_scale @deviations
""",
    ),
)
