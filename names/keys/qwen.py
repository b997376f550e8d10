"""Qwen's models, dense, of experts, and with linear attention."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import COMMON, EXPERT_SIZE, POOLING, SHARED_SIZE

_LINEAR = (
    COMMON
    + EXPERT_SIZE
    + SHARED_SIZE
    + """
ssm.conv_kernel          linear_conv_kernel_dim
ssm.state_size           linear_key_head_dim
ssm.group_count          linear_num_key_heads
ssm.time_step_rank       linear_num_value_heads
ssm.inner_size           linear_value_head_dim*linear_num_value_heads
full_attention_interval  full_attention_interval|=4
rope.dimension_count     @rotary:0.25
"""
)
_DEEPSTACK = "n_deepstack_layers @count:vision_config.deepstack_visual_indexes|=0\n"
_SECTIONS = "rope.dimension_sections @sections|=[11,11,10,0]\n"

KEYS = (
    Keys(("Qwen2ForCausalLM", "Qwen2Model", "Qwen3ForCausalLM", "Qwen3Model"), COMMON + POOLING),
    Keys(
        ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
        COMMON + EXPERT_SIZE + SHARED_SIZE,
    ),
    Keys(("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"), COMMON),
    Keys(("Qwen3NextForCausalLM",), _LINEAR),
    Keys(
        ("Qwen3VLMoeForConditionalGeneration",),
        COMMON + EXPERT_SIZE + SHARED_SIZE + _DEEPSTACK,
    ),
    Keys(
        ("Qwen3ASRForConditionalGeneration", "Qwen3VLForConditionalGeneration"),
        COMMON + _DEEPSTACK,
    ),
    Keys(
        (
            "Qwen3_5ForCausalLM",
            "Qwen3_5ForConditionalGeneration",
            "Qwen3_5MoeForCausalLM",
            "Qwen3_5MoeForConditionalGeneration",
        ),
        _LINEAR + _SECTIONS,
    ),
)
