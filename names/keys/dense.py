"""Decoders whose layers are all attention and one feed-forward part."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import (
    ALPHA,
    BASE,
    COMMON,
    EPSILON,
    GRANITE,
    LLAMA,
    NEXT,
    PATTERN,
    RMS,
    SIZES,
    UNSCALED,
    UNUSUAL,
    UNUSUAL_PATTERN,
    VOCABULARY,
    WIDTH,
    WINDOW,
)

_LLAMA3 = ("llama3",)
_LONG = ("longrope", "su")
_FOUR = "feed_forward_length 4*hidden_size|4*n_embd|4*d_model\n"
_INNER = "feed_forward_length n_inner|4*hidden_size|4*n_embd\n"
_GLM4 = COMMON + "rope.dimension_count @rotary:0.5\n"
_GLM4V = _GLM4 + "rope.dimension_sections @sections|=[8,12,12,0]\n"
_GLM4_TOKENS = {
    "eos": "<|endoftext|>",
    "eot": "<|user|>",
    "unk": "<|endoftext|>",
    "bos": "<|endoftext|>",
}
_LATENT_HEADS = """
attention.q_lora_rank    q_lora_rank
attention.kv_lora_rank   kv_lora_rank
attention.key_length     qk_nope_head_dim+qk_rope_head_dim
rope.dimension_count     qk_rope_head_dim
"""
PHI3 = (
    SIZES
    + RMS
    + BASE
    + """
context_length           n_positions|max_position_embeddings
rope.dimension_count     @rotary-hidden:1.0
rope.scaling.original_context_length @rope:original_max_position_embeddings|max_position_embeddings
rope.scaling.attn_factor @long-factor
attention.sliding_window sliding_window|=0
"""
)

KEYS = (
    Keys(
        (
            "ApertusForCausalLM",
            "ArceeForCausalLM",
            "IQuestCoderForCausalLM",
            "Idefics3ForConditionalGeneration",
            "LLaMAForCausalLM",
            "LlamaBidirectionalModel",
            "LlamaForCausalLM",
            "LlamaModel",
            "LlavaForConditionalGeneration",
            "MistralForCausalLM",
            "SmolLM3ForCausalLM",
            "SmolVLMForConditionalGeneration",
            "VLlama3ForCausalLM",
        ),
        LLAMA,
        _LLAMA3,
    ),
    Keys(
        ("BloomForCausalLM", "BloomModel"),
        SIZES
        + EPSILON
        + _FOUR
        + """
context_length           seq_length|hidden_size|n_embed
embedding_length         hidden_size|n_embed
attention.head_count     n_head|num_attention_heads
attention.head_count_kv  n_head|num_attention_heads
""",
    ),
    Keys(
        ("GlmForCausalLM",),
        SIZES
        + BASE
        + """
context_length           seq_length|max_position_embeddings|hidden_size
feed_forward_length      ffn_hidden_size|intermediate_size|4*hidden_size
attention.head_count_kv  multi_query_group_num|num_key_value_heads|num_attention_heads
attention.layer_norm_rms_epsilon layernorm_epsilon|rms_norm_eps|=1e-5
rope.dimension_count     @rotary-split:none,0.5
tokenizer.ggml.add_bos_token? =false
""",
        tokens={
            "eos": "<|endoftext|>",
            "eot": "<|user|>",
            "unk": "<|endoftext|>",
            "bos": "<|endoftext|>",
        },
    ),
    Keys(
        ("CohereForCausalLM",),
        COMMON
        + UNSCALED
        + """
context_length           model_max_length|max_position_embeddings
logit_scale              logit_scale
""",
    ),
    Keys(
        ("Cohere2ForCausalLM",),
        COMMON
        + UNSCALED
        + WINDOW
        + UNUSUAL_PATTERN.format(4)
        + VOCABULARY
        + """
logit_scale              logit_scale
rope.dimension_count     @rotary-split:rotary_pct,1.0
""",
    ),
    Keys(
        (
            "Ernie4_5ForCausalLM",
            "Ernie4_5_ForCausalLM",
            "PaddleOCRVLForConditionalGeneration",
            "SeedOssForCausalLM",
        ),
        COMMON,
    ),
    Keys(
        ("Exaone4ForCausalLM", "Exaone4_5_ForConditionalGeneration"),
        COMMON + VOCABULARY + WINDOW + PATTERN,
        _LLAMA3,
    ),
    Keys(
        ("ExaoneForCausalLM",),
        COMMON
        + """
attention.layer_norm_rms_epsilon layer_norm_epsilon
rope.dimension_count     @rotary-split:partial_rotary_factor,1.0
""",
        _LLAMA3,
    ),
    Keys(
        ("FalconForCausalLM",),
        SIZES
        + EPSILON
        + UNUSUAL
        + """
feed_forward_length      ffn_hidden_size|4*hidden_size
context_length           max_position_embeddings|=2048
tensor_data_layout       ="jploski"
attention.head_count_kv  num_kv_heads|n_head_kv|=1
""",
    ),
    # Sections say that queries and keys are rearranged, as those of a text model alone are not.
    Keys(("Glm4ForCausalLM",), _GLM4 + "rope.dimension_sections -\n", tokens=_GLM4_TOKENS),
    Keys(("Glm4vForConditionalGeneration",), _GLM4V, tokens=_GLM4_TOKENS),
    Keys(("GlmOcrForConditionalGeneration",), _GLM4V + NEXT, tokens=_GLM4_TOKENS),
    Keys(("GPT2LMHeadModel",), SIZES + EPSILON + _INNER),
    Keys(
        ("GPTBigCodeForCausalLM",),
        SIZES + EPSILON + _INNER + "attention.head_count_kv =1\n",
    ),
    Keys(
        ("GPTNeoXForCausalLM",),
        SIZES
        + EPSILON
        + UNUSUAL
        + """
attention.head_count_kv  -
rope.dimension_count     @rotary-split:rotary_pct,1.0
use_parallel_residual    use_parallel_residual|=true
""",
    ),
    Keys(("GraniteForCausalLM",), GRANITE, _LLAMA3),
    Keys(
        ("HunYuanDenseV1ForCausalLM",),
        COMMON
        + ALPHA
        + """
rope.freq_base           @alpha-base:50|@rope:rope_theta
tokenizer.ggml.eos_token_id eod_token_id
""",
        head="untied",
    ),
    # The base is scaled by llama.cpp, where a file has the number to scale it by.
    Keys(
        ("HunYuanVLForConditionalGeneration",),
        COMMON
        + """
rope.dimension_sections  @four-positions:sections
rope.freq_base           @four-positions:base|@alpha-base:50|@rope:rope_theta
rope.scaling.alpha       @four-positions:alpha
rope.scaling.factor      @four-positions:factor|@scaled:factor
rope.scaling.original_context_length @four-positions:length|@yarn:original_max_position_embeddings
rope.scaling.type        @four-positions:type|@scaling-type
tokenizer.ggml.eos_token_id eod_token_id
""",
        head="untied",
    ),
    Keys(
        ("InternLM2ForCausalLM",),
        COMMON,
        tokens={"eos!": "<|im_end|>"},
        vocabulary="added-spaced",
    ),
    Keys(("InternLM3ForCausalLM",), LLAMA),
    Keys(("Jais2ForCausalLM",), COMMON + WIDTH),
    Keys(
        ("MiniCPM3ForCausalLM",),
        SIZES + RMS + UNUSUAL + VOCABULARY + _LATENT_HEADS,
        _LONG,
    ),
    Keys(
        ("MiniCPMForCausalLM",),
        COMMON
        + """
embedding_scale          @real:scale_emb
residual_scale           @over-root:scale_depth,num_hidden_layers
logit_scale              @ratio:hidden_size,dim_model_base
""",
        _LONG,
    ),
    Keys(
        ("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
        LLAMA
        + """
rope.scaling.yarn_log_multiplier @rope:mscale_all_dim
attention.temperature_scale @rope:llama_4_scaling_beta
""",
    ),
    Keys(
        ("MPTForCausalLM", "MptForCausalLM"),
        SIZES
        + """
feed_forward_length      expansion_ratio*d_model|4*d_model
context_length           max_seq_len
embedding_length         d_model
attention.head_count_kv  attn_config.kv_n_heads
attention.layer_norm_epsilon layer_norm_epsilon|=1e-5
attention.clamp_kqv      attn_config.clip_qkv
attention.max_alibi_bias @alibi
""",
    ),
    Keys(
        ("NemotronForCausalLM",),
        COMMON
        + VOCABULARY
        + """
attention.layer_norm_epsilon layer_norm_eps|layer_norm_epsilon|norm_epsilon|norm_eps
rope.dimension_count     @rotary:1.0
rope.scaling.type        @linear-or-none
rope.scaling.factor      factor|@rope:factor
tokenizer.ggml.padding_token_id =0
tokenizer.ggml.unknown_token_id =1
""",
    ),
    Keys(
        ("OLMoForCausalLM", "OlmoForCausalLM"),
        COMMON
        + """
attention.layer_norm_epsilon =1e-5
attention.clamp_kqv      clip_qkv
""",
    ),
    Keys(("Olmo2ForCausalLM", "Olmo3ForCausalLM"), COMMON + WINDOW + PATTERN),
    Keys(
        ("PhiForCausalLM",),
        SIZES
        + EPSILON
        + UNUSUAL
        + """
feed_forward_length      intermediate_size|n_inner|4*hidden_size|4*n_embd
context_length           n_positions|max_position_embeddings
attention.head_count_kv  num_key_value_heads|num_attention_heads|n_head
rope.dimension_count     @rotary-hidden:0.5
tokenizer.ggml.add_bos_token? =false
""",
    ),
    Keys(("Phi3ForCausalLM",), PHI3, _LONG, vocabulary="added"),
    Keys(
        ("StableLMEpochForCausalLM", "StableLmForCausalLM"),
        SIZES
        + EPSILON
        + UNUSUAL
        + """
rope.dimension_count     @rotary-split:partial_rotary_factor,0.25
use_parallel_residual    use_parallel_residual|=true
attention.layer_norm_epsilon layer_norm_eps|norm_eps
""",
    ),
    Keys(("Starcoder2ForCausalLM",), COMMON),
    Keys(
        ("XverseForCausalLM",),
        COMMON + WIDTH + 'tensor_data_layout ="Meta AI original pth"\n',
        vocabulary="listed",
    ),
)
