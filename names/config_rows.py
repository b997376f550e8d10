"""Classes of dense models and encoders, and the table of all classes."""

from __future__ import annotations

from typing import Any

from anamnesis.names import config_changes as change
from anamnesis.names import config_remote as remote
from anamnesis.names import deci
from anamnesis.names.config_blocks import (
    ATTENTION_BIAS,
    BIASES,
    CONV_BIAS,
    CONV_LAYERS,
    EPSILON,
    GPT2,
    GRANITE,
    LATENT,
    LAYER_EPS,
    LINEAR,
    LINEAR_LAYERS,
    MAMBA2,
    MAMBA_BIASES,
    MPT,
    NEXT,
    NORM_EPS,
    PER_LAYER,
    RESIDUAL,
    SHORT_CONVOLUTION,
    SOFTCAPS,
    SSM,
    SSM_BIASES,
    T5,
    WHOLE_HEADS,
)
from anamnesis.names.config_class import ALL, ModelClass
from anamnesis.names.config_mixtures import MIXTURES
from anamnesis.names.config_others import OTHERS

__all__ = ["ALL", "CLASSES"]

# Falcon-H1's weights carry its multipliers in a GGUF, and llama.cpp gates before its norm.
_UNSCALED: dict[str, Any] = {
    f"{name}_multiplier": 1.0
    for name in "attention_in attention_out embedding key lm_head ssm_in ssm_out".split()
} | {"mlp_multipliers": [1.0] * 2, "ssm_multipliers": [1.0] * 5, "mamba_norm_before_gate": False}
_MODERN = """
norm_eps                   attention.layer_norm_rms_epsilon
local_attention            attention.sliding_window
global_attn_every_n_layers attention.sliding_window_pattern
hidden_activation          hidden_activation
rms_norm_eps               -
sliding_window             -
"""
_DISTILBERT = """
dim         embedding_length
hidden_dim  feed_forward_length
n_heads     attention.head_count
n_layers    block_count
"""
_NORM_BIAS = {"norm_bias": "attn_norm.bias"}
_POOLER = "pooler.*"
_T5 = T5 + "num_decoder_layers decoder_block_count\ndecoder_start_token_id decoder_start_token_id\n"
_ROBERTA = (change.roberta, change.token_types)

DENSE: dict[str, ModelClass] = {
    "ApertusForCausalLM": ModelClass(
        "apertus",
        constants={"hidden_act": "xielu"},
        biases=ATTENTION_BIAS,
        changes=(change.plain_rotation,),
    ),
    "ArceeForCausalLM": ModelClass("arcee", biases=BIASES),
    "BaichuanForCausalLM": ModelClass("baichuan", "model_max_length context_length\n", remote=True),
    "BambaForCausalLM": ModelClass(
        "bamba",
        MAMBA2,
        biases={**BIASES, **MAMBA_BIASES},
        changes=(change.mixers, change.bamba),
    ),
    "BertForSequenceClassification": ModelClass(
        "bert", LAYER_EPS, changes=(change.token_types, change.labels), missing="bert.pooler.*"
    ),
    "BertModel": ModelClass("bert", LAYER_EPS, changes=(change.token_types,), missing=_POOLER),
    "BitNetForCausalLM": ModelClass("bitnet", constants={"hidden_act": "relu2"}),
    "BitnetForCausalLM": ModelClass(
        "bitnet",
        constants={"hidden_act": "silu"},
        same_as="BitNetForCausalLM",
        lacks="the function of its feed-forward layers: SiLU, as llama.cpp takes it; "
        "BitNet-b1.58-2B-4T's is relu2",
    ),
    "BloomForCausalLM": ModelClass(
        "bloom", EPSILON + "n_layer block_count\nn_head attention.head_count\n"
    ),
    "CodeShellForCausalLM": ModelClass(
        "codeshell",
        GPT2 + "num_query_groups attention.head_count_kv\n",
        {"group_query_attention": True, "position_embedding_type": "rope"},
        remote=True,
    ),
    "Cohere2ForCausalLM": ModelClass(
        "cohere2", LAYER_EPS + "logit_scale logit_scale\n", changes=(change.sliding_layers,)
    ),
    "CohereForCausalLM": ModelClass(
        "cohere", LAYER_EPS + "logit_scale logit_scale\n", changes=(change.layer_norms,)
    ),
    "DeciLMForCausalLM": ModelClass(
        "nemotron-nas",
        "num_key_value_heads -\nintermediate_size -\n",
        biases=BIASES,
        changes=(deci.blocks,),
        remote=True,
    ),
    "DistilBertForSequenceClassification": ModelClass(
        "distilbert", _DISTILBERT, changes=(change.labels,)
    ),
    "DistilBertModel": ModelClass("distilbert", _DISTILBERT),
    "Ernie4_5ForCausalLM": ModelClass("ernie4_5", biases={"use_bias": "attn_q.bias"}),
    "EuroBertModel": ModelClass("eurobert"),
    "Exaone4ForCausalLM": ModelClass("exaone4", changes=(change.sliding_layers,)),
    "ExaoneForCausalLM": ModelClass("exaone", EPSILON + "num_layers block_count\n", remote=True),
    "FalconForCausalLM": ModelClass(
        "falcon", EPSILON + "ffn_hidden_size feed_forward_length\n", changes=(change.falcon,)
    ),
    "FalconH1ForCausalLM": ModelClass(
        "falcon_h1",
        MAMBA2 + "mamba_d_ssm ssm.inner_size\n",
        _UNSCALED,
        {
            **BIASES,
            **MAMBA_BIASES,
            "mamba_rms_norm": "ssm_norm.weight",
            "projectors_bias": "ssm_out.bias",
        },
    ),
    "FalconMambaForCausalLM": ModelClass(
        "falcon_mamba", SSM, biases=SSM_BIASES, changes=(change.state_space,)
    ),
    "GPT2LMHeadModel": ModelClass("gpt2", GPT2),
    "GPTBigCodeForCausalLM": ModelClass("gpt_bigcode", GPT2, {"multi_query": True}),
    "GPTNeoXForCausalLM": ModelClass(
        "gpt_neox",
        LAYER_EPS + RESIDUAL,
        WHOLE_HEADS,
        {"attention_bias": "attn_qkv.bias"},
        changes=(change.rotary_share,),
    ),
    "Gemma2ForCausalLM": ModelClass(
        "gemma2", SOFTCAPS, changes=(change.gemma2, change.alternating)
    ),
    "Gemma3ForCausalLM": ModelClass("gemma3_text", changes=(change.gemma3,)),
    "Gemma3TextModel": ModelClass("gemma3_text", changes=(change.gemma3,)),
    "Gemma3nForCausalLM": ModelClass(
        "gemma3n_text",
        PER_LAYER
        + """
altup_active_idx         altup.active_idx
altup_num_inputs         altup.num_inputs
""",
        changes=(change.sliding_layers, change.gemma3n, change.two_bases),
    ),
    "GemmaForCausalLM": ModelClass("gemma"),
    "Glm4ForCausalLM": ModelClass("glm4", "", WHOLE_HEADS, ATTENTION_BIAS),
    "Glm4vForConditionalGeneration": ModelClass(
        "glm4",
        NEXT,
        WHOLE_HEADS,
        ATTENTION_BIAS,
        changes=(change.sections,),
        same_as="Glm4ForCausalLM",
    ),
    "GlmForCausalLM": ModelClass(
        "glm",
        biases={"attention_bias": "attn_q.bias attn_qkv.bias"},
        changes=(change.glm,),
        lacks="the epsilon of its norms and how long a text may be: 1e-5, and the hidden size, as "
        "llama.cpp's converter writes them",
    ),
    "GraniteForCausalLM": ModelClass("granite", GRANITE, biases=BIASES),
    "HunYuanDenseV1ForCausalLM": ModelClass("hunyuan_v1_dense", biases=ATTENTION_BIAS),
    "HunYuanVLForConditionalGeneration": ModelClass(
        "hunyuan_v1_dense",
        biases=ATTENTION_BIAS,
        changes=(change.scaled_base, change.sections),
        same_as="HunYuanDenseV1ForCausalLM",
    ),
    "InternLM2ForCausalLM": ModelClass("internlm2", biases={"bias": "attn_q.bias"}, remote=True),
    "Jais2ForCausalLM": ModelClass("jais2", LAYER_EPS, biases=BIASES),
    "Lfm2ForCausalLM": ModelClass(
        "lfm2",
        SHORT_CONVOLUTION,
        biases=CONV_BIAS,
        kinds=CONV_LAYERS,
        changes=(change.short_convolutions,),
    ),
    "LLaDAModelLM": ModelClass(
        "llada",
        """
d_model             embedding_length
max_sequence_length context_length
mlp_hidden_size     feed_forward_length
n_heads             attention.head_count
n_kv_heads          attention.head_count_kv
n_layers            block_count
head_dim            -
hidden_size         -
""",
        {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True},
        {"include_qkv_bias": "attn_q.bias"},
        changes=(remote.llada,),
        remote=True,
    ),
    "LlamaForCausalLM": ModelClass("llama", biases=BIASES),
    "MPTForCausalLM": ModelClass("mpt", MPT),
    "Mamba2ForCausalLM": ModelClass(
        "mamba2", SSM, biases=SSM_BIASES, changes=(change.state_space,)
    ),
    "MambaForCausalLM": ModelClass("mamba", SSM, biases=SSM_BIASES, changes=(change.state_space,)),
    "MiniCPM3ForCausalLM": ModelClass(
        "minicpm3",
        LATENT,
        changes=(change.latent,),
        lacks="scale_emb, scale_depth and dim_model_base: those of MiniCPM3-4B",
    ),
    "MiniCPMForCausalLM": ModelClass(
        "granite", GRANITE, biases=BIASES, changes=(change.minicpm,), same_as="GraniteForCausalLM"
    ),
    "Ministral3ForCausalLM": ModelClass("ministral3", changes=(change.ministral,)),
    "MistralForCausalLM": ModelClass("mistral"),
    "ModernBertForSequenceClassification": ModelClass(
        "modernbert", _MODERN, biases=_NORM_BIAS, changes=(change.modern_bert, change.labels)
    ),
    "ModernBertModel": ModelClass(
        "modernbert", _MODERN, biases=_NORM_BIAS, changes=(change.modern_bert,)
    ),
    "NemotronForCausalLM": ModelClass("nemotron", NORM_EPS, WHOLE_HEADS),
    "NomicBertModel": ModelClass(
        "nomic_bert",
        LAYER_EPS,
        {"activation_function": "swiglu", "qkv_proj_bias": False, "mlp_fc1_bias": False}
        | {"mlp_fc2_bias": False, "causal": False, "prenorm": False},
        changes=(change.token_types, change.nomic, remote.nomic_experts),
    ),
    "Olmo2ForCausalLM": ModelClass("olmo2", biases=ATTENTION_BIAS),
    "Olmo3ForCausalLM": ModelClass(
        "olmo3", biases=ATTENTION_BIAS, changes=(change.sliding_layers,)
    ),
    "OlmoForCausalLM": ModelClass("olmo", "clip_qkv attention.clamp_kqv\n"),
    "OrionForCausalLM": ModelClass(
        "orion",
        """
max_sequence_length context_length
rms_norm_eps        attention.layer_norm_epsilon
""",
        remote=True,
    ),
    "Phi3ForCausalLM": ModelClass("phi3"),
    "PhiForCausalLM": ModelClass("phi", LAYER_EPS, WHOLE_HEADS, changes=(change.key_heads,)),
    "Plamo2ForCausalLM": ModelClass("plamo2", remote=True),
    "Plamo3ForCausalLM": ModelClass("plamo3", remote=True),
    "PlamoForCausalLM": ModelClass("plamo", remote=True),
    "PaddleOCRVLForConditionalGeneration": ModelClass(
        "llama", biases=BIASES, changes=(change.sections,), same_as="LlamaForCausalLM"
    ),
    "PanguEmbeddedForCausalLM": ModelClass(
        "PanguEmbedded", biases={"bias": "attn_q.bias"}, remote=True
    ),
    "DreamModel": ModelClass("Dream", remote=True),
    "MaincoderForCausalLM": ModelClass("maincoder", remote=True),
    "Qwen2ForCausalLM": ModelClass("qwen2"),
    "Qwen2VLForConditionalGeneration": ModelClass(
        "qwen2", changes=(change.sections,), same_as="Qwen2ForCausalLM"
    ),
    "Qwen3ForCausalLM": ModelClass("qwen3", biases=ATTENTION_BIAS),
    "Qwen3VLForConditionalGeneration": ModelClass(
        "qwen3",
        biases=ATTENTION_BIAS,
        changes=(change.interleaved_sections,),
        same_as="Qwen3ForCausalLM",
    ),
    "Qwen3_5ForCausalLM": ModelClass(
        "qwen3_5_text", LINEAR, WHOLE_HEADS, kinds=LINEAR_LAYERS, changes=(change.value_dim,)
    ),
    "RobertaForSequenceClassification": ModelClass(
        "roberta", LAYER_EPS, changes=(*_ROBERTA, change.labels)
    ),
    "RobertaModel": ModelClass("roberta", LAYER_EPS, changes=_ROBERTA, missing=_POOLER),
    "SeedOssForCausalLM": ModelClass(
        "seed_oss", biases={**ATTENTION_BIAS, "attention_out_bias": "attn_output.bias"}
    ),
    "SmolLM3ForCausalLM": ModelClass(
        "smollm3",
        biases=BIASES,
        lacks="which layers have no rotary embeddings: every fourth, as llama.cpp takes it",
    ),
    "StableLmForCausalLM": ModelClass(
        "stablelm",
        LAYER_EPS + RESIDUAL,
        WHOLE_HEADS,
        biases={"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"},
    ),
    "Starcoder2ForCausalLM": ModelClass(
        "starcoder2",
        "norm_epsilon attention.layer_norm_epsilon\n",
        biases={"use_bias": "attn_q.bias"},
    ),
    "T5EncoderModel": ModelClass("t5", T5, changes=(change.t5,)),
    "T5ForConditionalGeneration": ModelClass("t5", _T5, changes=(change.t5,)),
    "UMT5ForConditionalGeneration": ModelClass("umt5", _T5, changes=(change.t5,)),
    "XLMRobertaForSequenceClassification": ModelClass(
        "xlm-roberta", LAYER_EPS, changes=(*_ROBERTA, change.labels)
    ),
    "XLMRobertaModel": ModelClass("xlm-roberta", LAYER_EPS, changes=_ROBERTA, missing=_POOLER),
    "XverseForCausalLM": ModelClass("llama", biases=BIASES, same_as="LlamaForCausalLM"),
}

CLASSES: dict[str, ModelClass] = dict(sorted((DENSE | MIXTURES | OTHERS).items()))
