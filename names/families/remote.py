"""Models whose code lies beside their weights, with the names of Llama's and Qwen's layers."""

from __future__ import annotations

from anamnesis.names.families._blocks import (
    ATTENTION,
    EXPERTS,
    MLP,
    NORMS,
    QK_NORMS,
    ROPED_ATTENTION,
    SHARED_EXPERTS,
    TOP,
)
from anamnesis.names.family import Family

FAMILIES = (
    Family(
        "deepseek",
        ("deepseek",),
        ("DeepseekForCausalLM",),
        TOP,
        ROPED_ATTENTION + NORMS + MLP + EXPERTS + SHARED_EXPERTS,
    ),
    Family("dream", ("dream",), ("DreamModel",), TOP, ATTENTION + MLP + NORMS),
    Family(
        "maincoder",
        ("maincoder",),
        ("MaincoderForCausalLM",),
        TOP,
        ATTENTION + QK_NORMS + MLP + NORMS,
    ),
    Family(
        "pangu-embedded",
        ("pangu-embedded",),
        ("PanguEmbeddedForCausalLM",),
        TOP,
        ATTENTION + MLP + NORMS,
    ),
    Family("rnd1", ("rnd1",), ("RND1",), TOP, ATTENTION + QK_NORMS + NORMS + EXPERTS),
)
