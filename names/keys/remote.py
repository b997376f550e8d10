"""Models whose code lies beside their weights; two of them look both ways, and fill in words."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import (
    COMMON,
    EXPERT_SIZE,
    POOLING,
    PREFIX,
    SHARED_SIZE,
    UNSCALED,
    VOCABULARY,
    WIDTH,
)

_MASKED = """
attention.causal         =false
tokenizer.ggml.mask_token_id mask_token_id
"""

KEYS = (
    Keys(
        ("DeepseekForCausalLM",),
        COMMON
        + WIDTH
        + UNSCALED
        + VOCABULARY
        + EXPERT_SIZE
        + """
expert_shared_count      n_shared_experts
expert_weights_scale     =1.0
leading_dense_block_count first_k_dense_replace
""",
    ),
    Keys(("DreamModel",), COMMON + POOLING + _MASKED),
    Keys(("MaincoderForCausalLM",), COMMON + "rope.dimension_count head_dim\n"),
    Keys(
        ("PanguEmbeddedForCausalLM",),
        COMMON
        + VOCABULARY
        + WIDTH
        + PREFIX
        + """
attention.key_length     @width
attention.value_length   @width
""",
        head="untied",
    ),
    Keys(("RND1",), COMMON + EXPERT_SIZE + SHARED_SIZE + _MASKED),
)
