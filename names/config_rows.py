"""Keys of `config.json` and the GGUF keys that they come from, by class of model.

Rows are `KEY  GGUF-KEY` (after `ARCHITECTURE.`); `-` takes a key out of those that all have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anamnesis.readers.model import Model

Change = Callable[[dict[str, Any], Mapping[str, Any], str, Model], None]

ALL = """
hidden_size              embedding_length
intermediate_size        feed_forward_length
num_hidden_layers        block_count
num_attention_heads      attention.head_count
num_key_value_heads      attention.head_count_kv
head_dim                 attention.key_length
max_position_embeddings  context_length
rms_norm_eps             attention.layer_norm_rms_epsilon
rope_theta               rope.freq_base
sliding_window           attention.sliding_window
"""

_MOE = """
num_experts_per_tok      expert_used_count
moe_intermediate_size    expert_feed_forward_length
"""

_EXPERTS = "num_experts expert_count" + _MOE
_LOCAL_EXPERTS = "num_local_experts expert_count\nnum_experts_per_tok expert_used_count\n"
_ROUTED = (
    "n_routed_experts expert_count"
    + _MOE
    + """
n_shared_experts         expert_shared_count
first_k_dense_replace    leading_dense_block_count
routed_scaling_factor    expert_weights_scale
norm_topk_prob           expert_weights_norm
n_group                  expert_group_count
topk_group               expert_group_used_count
"""
)

_GPT2 = """
n_embd      embedding_length
n_layer     block_count
n_head      attention.head_count
n_positions context_length
n_inner     feed_forward_length
layer_norm_epsilon attention.layer_norm_epsilon
"""
_LATENT = """
q_lora_rank              attention.q_lora_rank
kv_lora_rank             attention.kv_lora_rank
qk_rope_head_dim         rope.dimension_count
v_head_dim               attention.value_length_mla
num_key_value_heads      attention.head_count
head_dim                 -
"""
_GRANITE = """
attention_multiplier     attention.scale
embedding_multiplier     embedding_scale
residual_multiplier      residual_scale
logits_scaling           logit_scale
head_dim                 -
"""
_LINEAR = """
linear_conv_kernel_dim   ssm.conv_kernel
linear_key_head_dim      ssm.state_size
linear_num_key_heads     ssm.group_count
linear_num_value_heads   ssm.time_step_rank
full_attention_interval  full_attention_interval
"""
_SHARED = "shared_expert_intermediate_size expert_shared_feed_forward_length\n"
_SSM = """
state_size    ssm.state_size
conv_kernel   ssm.conv_kernel
layer_norm_epsilon attention.layer_norm_rms_epsilon
rms_norm_eps  -
intermediate_size -
head_dim      -
"""
_HYBRID = """
mamba_d_conv   ssm.conv_kernel
mamba_d_ssm    ssm.inner_size
mamba_d_state  ssm.state_size
mamba_n_groups ssm.group_count
mamba_n_heads  ssm.time_step_rank
"""
_T5 = """
d_model                  embedding_length
d_kv                     attention.key_length
d_ff                     feed_forward_length
num_layers               block_count
num_heads                attention.head_count
layer_norm_epsilon       attention.layer_norm_epsilon
relative_attention_num_buckets attention.relative_buckets_count
"""
_SHORT = """
norm_eps                 attention.layer_norm_rms_epsilon
conv_L_cache             shortconv.l_cache
"""
_RESIDUAL = "use_parallel_residual use_parallel_residual\n"
_SOFTCAPS = """
attn_logit_softcapping   attn_logit_softcapping
final_logit_softcapping  final_logit_softcapping
"""
_MPT = """
d_model                  embedding_length
n_layers                 block_count
n_heads                  attention.head_count
max_seq_len              context_length
"""
_LAYER_EPS = "layer_norm_eps attention.layer_norm_epsilon\n"
_NORM_EPS = "norm_eps attention.layer_norm_epsilon\n"
_EPSILON = "layer_norm_epsilon attention.layer_norm_epsilon\n"


@dataclass(frozen=True)
class ModelClass:
    """What a class's configuration says; `biases` are keys by the end of a tensor's name."""

    model_type: str
    rows: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


_ATTENTION_BIAS = {"attention_bias": "attn_q.bias"}
_BIASES = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}

# Falcon-H1's weights carry its multipliers in a GGUF, and llama.cpp gates before its norm.
_UNSCALED: dict[str, Any] = {
    f"{name}_multiplier": 1.0
    for name in "attention_in attention_out embedding key lm_head ssm_in ssm_out".split()
} | {"mlp_multipliers": [1.0] * 2, "ssm_multipliers": [1.0] * 5, "mamba_norm_before_gate": False}
_HYBRID_BIASES = {
    "mamba_conv_bias": "ssm_conv1d.bias",
    "mamba_proj_bias": "ssm_in.bias",
    "mamba_rms_norm": "ssm_norm.weight",
    "projectors_bias": "ssm_out.bias",
}


def _nope(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    """The part of a head that is not turned."""
    length = values.get(f"{prefix}.attention.key_length_mla")
    length = length or values.get(f"{prefix}.attention.key_length", 0)
    config["qk_nope_head_dim"] = length - config.get("qk_rope_head_dim", 0)
    config.setdefault("v_head_dim", config["qk_nope_head_dim"])
    config.setdefault("q_lora_rank", None)
    config["head_dim"] = config.get("qk_rope_head_dim")
    config.pop("partial_rotary_factor", None)


def _value_dim(
    config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model
) -> None:
    """The width of a value head of linear attention, and which layers have it."""
    heads = config.get("linear_num_value_heads") or 1
    config["linear_value_head_dim"] = values.get(f"{prefix}.ssm.inner_size", 0) // heads
    config["layer_types"] = [
        "linear_attention" if f"blk.{i}.ssm_out.weight" in model.stored else "full_attention"
        for i in range(config.get("num_hidden_layers", 0))
    ]
    sections = values.get(f"{prefix}.rope.dimension_sections")
    if sections:
        scaling = config.setdefault("rope_scaling", {"rope_type": "default"})
        scaling |= {"mrope_section": sections[:3], "mrope_interleaved": True}


def _sections(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    sections = values.get(f"{prefix}.rope.dimension_sections", [])
    config["rope_scaling"] = {"rope_type": "default", "mrope_section": sections[:3]}


def _gemma3(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    """Two bases, and the attention's scale, which llama.cpp derives from the size of the model."""
    base = values.get(f"{prefix}.rope.freq_base_swa")
    if base is not None:
        config["rope_local_base_freq"] = base
    width = config.get("head_dim", 0)
    if config.get("num_hidden_layers") == _LAYERS_OF_27B:
        width = config["hidden_size"] // config["num_attention_heads"]
    config["query_pre_attn_scalar"] = width


_LAYERS_OF_27B = 62


def _softcaps(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    width = config.get("head_dim", 0)
    if config.get("num_hidden_layers") == _LAYERS_OF_GEMMA2_27B:
        width = config["hidden_size"] // config["num_attention_heads"]
    config["query_pre_attn_scalar"] = width


_LAYERS_OF_GEMMA2_27B = 46


def _layers_without_attention(
    config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model
) -> None:
    """Short convolutions where there is no attention."""
    config["layer_types"] = [
        "conv" if f"blk.{i}.shortconv.conv.weight" in model.stored else "full_attention"
        for i in range(config.get("num_hidden_layers", 0))
    ]
    config["block_auto_adjust_ff_dim"] = False


def _sliding_layers(
    config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model
) -> None:
    """Which layers look at a window."""
    pattern = values.get(f"{prefix}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        config["layer_types"] = [
            "sliding_attention" if windowed else "full_attention" for windowed in pattern
        ]


def _alternating(
    config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model
) -> None:
    kinds = ("sliding_attention", "full_attention")
    config["layer_types"] = [kinds[i % 2] for i in range(config.get("num_hidden_layers", 0))]


def _untruncated(
    config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model
) -> None:
    """The bounds of its scaling are not rounded to whole dimensions."""
    if "rope_scaling" in config:
        config["rope_scaling"]["truncate"] = False


def _falcon(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    """The two decoders of Falcon, by their norms."""
    new = "blk.0.attn_norm_2.weight" in model.stored
    kv = values.get(f"{prefix}.attention.head_count_kv", 1)
    config |= {"new_decoder_architecture": new, "multi_query": kv == 1, "parallel_attn": True}
    config |= {"alibi": False, "bias": "blk.0.attn_qkv.bias" in model.stored}
    config["num_kv_heads"] = kv


def _inner(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    """State-space sizes that are products of others."""
    inner = values.get(f"{prefix}.ssm.inner_size", 0)
    hidden = config.get("hidden_size") or 1
    config["expand"] = inner // hidden if inner % hidden == 0 else inner / hidden
    rank = values.get(f"{prefix}.ssm.time_step_rank", 0)
    if config["model_type"] == "mamba2":
        config |= {"num_heads": rank, "head_dim": inner // max(1, rank)}
        config["n_groups"] = values.get(f"{prefix}.ssm.group_count", 1)
    else:
        config |= {"time_step_rank": rank, "intermediate_size": inner}


def _logit_scale(
    config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model
) -> None:
    config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in model.stored


def _no_rope(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    config.pop("partial_rotary_factor", None)


CLASSES: dict[str, ModelClass] = {
    "ApertusForCausalLM": ModelClass("apertus", biases=_ATTENTION_BIAS),
    "ArceeForCausalLM": ModelClass("arcee", biases=_BIASES),
    "BertModel": ModelClass("bert", _LAYER_EPS),
    "BloomForCausalLM": ModelClass(
        "bloom", _EPSILON + "n_layer block_count\nn_head attention.head_count\n"
    ),
    "Cohere2ForCausalLM": ModelClass("cohere2", _LAYER_EPS + "logit_scale logit_scale\n"),
    "CohereForCausalLM": ModelClass(
        "cohere", _LAYER_EPS + "logit_scale logit_scale\n", changes=(_logit_scale,)
    ),
    "DeepseekV2ForCausalLM": ModelClass("deepseek_v2", _ROUTED + _LATENT, changes=(_nope,)),
    "DeepseekV3ForCausalLM": ModelClass("deepseek_v3", _ROUTED + _LATENT, changes=(_nope,)),
    "Dots1ForCausalLM": ModelClass("dots1", _ROUTED),
    "Ernie4_5ForCausalLM": ModelClass("ernie4_5", biases={"use_bias": "attn_q.bias"}),
    "Exaone4ForCausalLM": ModelClass("exaone4", changes=(_sliding_layers,)),
    "ExaoneForCausalLM": ModelClass("exaone", _EPSILON + "num_layers block_count\n"),
    "FalconForCausalLM": ModelClass(
        "falcon", _EPSILON + "ffn_hidden_size feed_forward_length\n", changes=(_falcon,)
    ),
    "FalconH1ForCausalLM": ModelClass(
        "falcon_h1", _HYBRID, _UNSCALED, {**_BIASES, **_HYBRID_BIASES}
    ),
    "FalconMambaForCausalLM": ModelClass("falcon_mamba", _SSM, changes=(_inner,)),
    "GPT2LMHeadModel": ModelClass("gpt2", _GPT2),
    "GPTBigCodeForCausalLM": ModelClass("gpt_bigcode", _GPT2, {"multi_query": True}),
    "GPTNeoXForCausalLM": ModelClass("gpt_neox", _LAYER_EPS + _RESIDUAL),
    "Gemma2ForCausalLM": ModelClass(
        "gemma2",
        _SOFTCAPS,
        changes=(_softcaps, _alternating),
    ),
    "Gemma3ForCausalLM": ModelClass("gemma3_text", changes=(_gemma3,)),
    "GemmaForCausalLM": ModelClass("gemma"),
    "Glm4ForCausalLM": ModelClass("glm4", biases=_ATTENTION_BIAS),
    "Glm4MoeForCausalLM": ModelClass(
        "glm4_moe", _ROUTED, biases={**_ATTENTION_BIAS, "use_qk_norm": "attn_q_norm.weight"}
    ),
    "GptOssForCausalLM": ModelClass(
        "gpt_oss", _LOCAL_EXPERTS, changes=(_alternating, _untruncated)
    ),
    "GraniteForCausalLM": ModelClass("granite", _GRANITE, biases=_BIASES),
    "GraniteMoeForCausalLM": ModelClass("granitemoe", _GRANITE + _LOCAL_EXPERTS),
    "HunYuanDenseV1ForCausalLM": ModelClass("hunyuan_v1_dense", biases=_ATTENTION_BIAS),
    "InternLM2ForCausalLM": ModelClass("internlm2", biases={"bias": "attn_q.bias"}),
    "Jais2ForCausalLM": ModelClass("jais2", _LAYER_EPS),
    "Lfm2ForCausalLM": ModelClass(
        "lfm2",
        _SHORT,
        changes=(_layers_without_attention,),
    ),
    "Lfm2MoeForCausalLM": ModelClass(
        "lfm2_moe",
        _SHORT + "num_dense_layers leading_dense_block_count\n" + _EXPERTS,
        biases={"use_expert_bias": "exp_probs_b.bias"},
        changes=(_layers_without_attention,),
    ),
    "LlamaForCausalLM": ModelClass("llama", biases=_BIASES),
    "MPTForCausalLM": ModelClass(
        "mpt",
        _MPT,
    ),
    "Mamba2ForCausalLM": ModelClass("mamba2", _SSM, changes=(_inner,)),
    "MambaForCausalLM": ModelClass("mamba", _SSM, changes=(_inner,)),
    "MiniMaxM2ForCausalLM": ModelClass(
        "minimax_m2", _LOCAL_EXPERTS + "rotary_dim rope.dimension_count\n"
    ),
    "MixtralForCausalLM": ModelClass("mixtral", _LOCAL_EXPERTS),
    "ModernBertModel": ModelClass("modernbert", _NORM_EPS),
    "NemotronForCausalLM": ModelClass(
        "nemotron", _NORM_EPS + "norm_eps attention.layer_norm_epsilon\n"
    ),
    "NomicBertModel": ModelClass("nomic_bert", _GPT2 + "rotary_emb_base rope.freq_base\n"),
    "Olmo2ForCausalLM": ModelClass("olmo2", biases=_ATTENTION_BIAS),
    "Olmo3ForCausalLM": ModelClass("olmo3", biases=_ATTENTION_BIAS, changes=(_sliding_layers,)),
    "OlmoForCausalLM": ModelClass("olmo", "clip_qkv attention.clamp_kqv\n"),
    "OlmoeForCausalLM": ModelClass("olmoe", _EXPERTS),
    "Phi3ForCausalLM": ModelClass("phi3"),
    "PhiForCausalLM": ModelClass("phi", _LAYER_EPS),
    "PhiMoEForCausalLM": ModelClass(
        "phimoe", _LOCAL_EXPERTS, {"attention_bias": True}, biases={"lm_head_bias": "output.bias"}
    ),
    "Qwen2ForCausalLM": ModelClass("qwen2"),
    "Qwen2MoeForCausalLM": ModelClass("qwen2_moe", _EXPERTS + _SHARED),
    "Qwen2VLForConditionalGeneration": ModelClass("qwen2_vl", changes=(_sections,)),
    "Qwen3ForCausalLM": ModelClass("qwen3", biases=_ATTENTION_BIAS),
    "Qwen3MoeForCausalLM": ModelClass(
        "qwen3_moe", _EXPERTS, {"norm_topk_prob": True}, biases=_ATTENTION_BIAS
    ),
    "Qwen3NextForCausalLM": ModelClass(
        "qwen3_next", _EXPERTS + _SHARED + _LINEAR, {"norm_topk_prob": True}, changes=(_value_dim,)
    ),
    "Qwen3_5ForCausalLM": ModelClass("qwen3_5_text", _LINEAR, changes=(_value_dim,)),
    "Qwen3_5MoeForCausalLM": ModelClass(
        "qwen3_5_moe_text", _EXPERTS + _SHARED + _LINEAR, changes=(_value_dim,)
    ),
    "RobertaModel": ModelClass("roberta", _LAYER_EPS),
    "SeedOssForCausalLM": ModelClass(
        "seed_oss", biases={**_ATTENTION_BIAS, "attention_out_bias": "attn_output.bias"}
    ),
    "SmolLM3ForCausalLM": ModelClass("smollm3", biases=_BIASES),
    "StableLmForCausalLM": ModelClass(
        "stablelm",
        _LAYER_EPS + _RESIDUAL,
        biases={"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"},
    ),
    "Starcoder2ForCausalLM": ModelClass(
        "starcoder2",
        "norm_epsilon attention.layer_norm_epsilon\n",
        biases={"use_bias": "attn_q.bias"},
    ),
    "T5EncoderModel": ModelClass(
        "t5",
        _T5,
        {"feed_forward_proj": "gated-gelu"},
    ),
    "T5ForConditionalGeneration": ModelClass(
        "t5",
        _T5
        + "num_decoder_layers decoder_block_count\ndecoder_start_token_id decoder_start_token_id\n",
        {"feed_forward_proj": "gated-gelu"},
    ),
}
