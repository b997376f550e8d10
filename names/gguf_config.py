"""A GGUF's key/values out of `config.json`, for the classes whose configurations are described.

The rows are those of `config_rows`, read in the other direction; what llama.cpp's converter writes
for some architectures only is listed here (conversion/ of https://github.com/ggml-org/llama.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.names.config_rows import ALL, CLASSES
from anamnesis.names.rope import llama3_factors
from anamnesis.readers.gguf_types import STRING, KeyValue

_UINT32, _FLOAT32, _BOOL = 4, 6, 7
_FLOAT_KEYS = re.compile(
    r".*(?:epsilon|freq_base(?:_swa)?|\.scale|_scale|softcapping|clamp_kqv|factor|beta_\w+)$"
)
# Classes whose every key/value was compared with the converter's.
WRITTEN = (
    "ArceeForCausalLM CohereForCausalLM Cohere2ForCausalLM DeepseekV2ForCausalLM "
    "DeepseekV3ForCausalLM Ernie4_5ForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM "
    "GPTNeoXForCausalLM Gemma2ForCausalLM GemmaForCausalLM GraniteForCausalLM "
    "GraniteMoeForCausalLM Jais2ForCausalLM "
    "LlamaForCausalLM MiniMaxM2ForCausalLM MistralForCausalLM MixtralForCausalLM Olmo2ForCausalLM "
    "OlmoeForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM "
    "SeedOssForCausalLM SmolLM3ForCausalLM StableLmForCausalLM Starcoder2ForCausalLM"
).split()
_SAME_AS = {"MistralForCausalLM": "LlamaForCausalLM"}
# Architectures whose files have keys that follow from others.
_ROPE_DIMENSION = (
    "arcee cohere2 deepseek2 glm4 gptneox granite granitemoe jais2 llama minimax-m2 smollm3 "
    "stablelm"
).split()
_VOCAB_SIZE = "arcee cohere2 deepseek2 granite granitemoe llama smollm3".split()
_NO_BASE = "gemma gemma2 gptneox stablelm".split()
_NO_WINDOW = "llama qwen2 qwen2moe qwen3 qwen3moe starcoder2 dots1 smollm3".split()
_LLAMA3 = ("arcee", "granite", "granitemoe", "llama", "smollm3")
_NO_SPACE = ("gemma", "gemma2")
_NO_SCALING = ("cohere2", "command-r")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def architecture_values(
    architecture: str, name: str, config: Mapping[str, Any], where: str
) -> dict[str, KeyValue]:
    """The key/values of the class `name`, whose GGUF architecture is `architecture`.

    Raises UnsupportedError for a class whose key/values are not known, or which needs tensors that
    follow from its configuration.
    """
    if name not in WRITTEN:
        known = ", ".join(WRITTEN)
        raise UnsupportedError(
            f"{where}: the key/values of {name!r:.100} are not known; those of {known} are. "
            "--names stored writes the tensors under the names they have"
        )
    settings = _flat(config)
    scaling = _scaling_of(settings)
    kind = scaling.get("rope_type")
    if kind in ("longrope", "su") or (kind == "llama3" and architecture not in _LLAMA3):
        raise UnsupportedError(
            f"{where}: rope scaling {kind!r} needs a tensor of factors, which is "
            "not implemented for writing"
        )
    row = CLASSES[_SAME_AS.get(name, name)]
    sources = dict(line.split() for line in ALL.strip().splitlines())
    sources |= dict(line.split() for line in row.rows.splitlines() if line.strip())
    values = {"general.architecture": KeyValue(STRING, architecture)}
    for key, source in sources.items():
        value = settings.get(key)
        if source == "expert_count":
            value = next((settings[k] for k in _EXPERTS if settings.get(k)), value)
        if source != "-" and isinstance(value, (bool, int, float)):
            values[f"{architecture}.{source}"] = _typed(source, value)
    _derive(values, architecture, settings)
    _scale(values, architecture, scaling)
    return values


def generated(
    architecture: str, config: Mapping[str, Any]
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Vectors that follow from the configuration: the factors of Llama 3's rope scaling."""
    settings = _flat(config)
    scaling = _scaling_of(settings)
    if scaling.get("rope_type") != "llama3" or architecture not in _LLAMA3:
        return ()
    width = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    factors = llama3_factors(scaling, float(settings.get("rope_theta", 10000.0)), int(width))
    return (("rope_freqs.weight", factors),)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """One level: what a text model's block says, and what `rope_parameters` do."""
    text = config.get("text_config")
    settings = {**config, **text} if isinstance(text, Mapping) else dict(config)
    parameters = settings.get("rope_parameters")
    if isinstance(parameters, Mapping):
        for key in ("rope_theta", "partial_rotary_factor"):
            if key in parameters:
                settings.setdefault(key, parameters[key])
    return settings


def _scaling_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = settings.get("rope_scaling") or settings.get("rope_parameters")
    found = dict(found) if isinstance(found, Mapping) else {}
    return {**found, "rope_type": found.get("rope_type") or found.get("type")}


def _derive(values: dict[str, KeyValue], architecture: str, settings: Mapping[str, Any]) -> None:
    """Keys that follow from several settings; those that an architecture's files lack go."""

    def put(key: str, value: int) -> None:
        values[f"{architecture}.{key}"] = KeyValue(_UINT32, int(value))

    heads: int = settings.get("num_attention_heads", settings.get("n_head", 0))
    hidden: int = settings.get("hidden_size", settings.get("n_embd", 0))
    stated = settings.get("head_dim")
    width = stated or (hidden // heads if heads else 0)
    if architecture in ("gpt2", "starcoder") and not settings.get("n_inner"):
        put("feed_forward_length", 4 * hidden)
    if architecture == "starcoder":
        put("attention.head_count_kv", 1)
    if f"{architecture}.attention.key_length" in values:
        put("attention.value_length", width)
    if architecture == "deepseek2":
        rank, turned = settings["kv_lora_rank"], settings["qk_rope_head_dim"]
        put("attention.head_count_kv", 1)
        put("attention.key_length", rank + turned)
        put("attention.value_length", rank)
        if not settings.get("norm_topk_prob"):
            values.pop("deepseek2.expert_weights_norm", None)
        put("attention.key_length_mla", settings["qk_nope_head_dim"] + turned)
    elif architecture in _ROPE_DIMENSION:
        partial = settings.get("partial_rotary_factor", settings.get("rotary_pct", 1.0))
        put("rope.dimension_count", settings.get("rotary_dim", int(width * partial)))
    if architecture in _VOCAB_SIZE:
        put("vocab_size", settings["vocab_size"])
    if architecture == "minimax-m2":
        put("expert_feed_forward_length", settings["intermediate_size"])
    if architecture in _NO_BASE:
        values.pop(f"{architecture}.rope.freq_base", None)
    if architecture in _NO_WINDOW:
        values.pop(f"{architecture}.attention.sliding_window", None)
    if architecture in _NO_SPACE:
        values["tokenizer.ggml.add_space_prefix"] = KeyValue(_BOOL, False)
    if architecture in _NO_SCALING:
        values[f"{architecture}.rope.scaling.type"] = KeyValue(STRING, "none")
    if architecture == "gptneox":
        values.pop(f"{architecture}.attention.head_count_kv", None)


def _scale(values: dict[str, KeyValue], architecture: str, scaling: Mapping[str, Any]) -> None:
    if scaling.get("rope_type") not in ("linear", "yarn"):
        return
    prefix = f"{architecture}.rope.scaling."
    values[f"{prefix}type"] = KeyValue(STRING, scaling["rope_type"])
    for key, source in (
        ("factor", "factor"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        if scaling.get(key) is not None:
            values[prefix + source] = KeyValue(_FLOAT32, float(scaling[key]))
    length = scaling.get("original_max_position_embeddings")
    if length is not None:
        values[f"{prefix}original_context_length"] = KeyValue(_UINT32, int(length))


def _typed(key: str, value: Any) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(_BOOL, value)
    if isinstance(value, float) or _FLOAT_KEYS.fullmatch(key):
        return KeyValue(_FLOAT32, float(value))
    return KeyValue(_UINT32, int(value))
