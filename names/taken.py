"""Settings of `config.json` that change what a model computes and that a GGUF has no key for.

llama.cpp takes one value for granted, by architecture; a configuration that says another one would
be a file that computes something else, and a remark says so. What it takes is as src/models/ of
https://github.com/ggml-org/llama.cpp has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anamnesis.names.config_changes import EXPERTS_OF_MAVERICK, LAYERS_OF_27B
from anamnesis.names.settings import Settings, split_width

Rule = Callable[[Settings], Any]

# Functions of feed-forward layers, and their names; those of other architectures are `silu`.
_KINDS = {
    "gelu": "gelu gelu_10 gelu_fast gelu_new gelu_python gelu_pytorch_tanh",
    "relu2": "relu2 squared_relu",
    "silu": "silu swish swiglu SwiGLU",
    "xielu": "xielu",
}
_FUNCTIONS = {
    "gelu": "bert bloom codeshell falcon gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 gpt2 "
    "gptneox jina-bert-v2 mpt nomic-bert-moe phi2 starcoder starcoder2",
    "relu2": "arcee jais2 nemotron nemotron_h nemotron_h_moe plm",
    "xielu": "apertus",
}
_LAYERS_OF_32B = 64
_OWN_KEY = ("modern-bert", "t5", "t5encoder")  # the function is a key there, or a row below
_NAMES = (
    *("hidden_activation", "hidden_act", "mlp_hidden_act", "activation_function", "activation"),
    "ffn_config.ffn_act_fn.name",
)
# SETTING  VALUES  architectures; `null` beside a value is "or not said" and need not be written.
_ROWS = """
alibi false falcon
apply_residual_connection_post_layernorm false bloom
attention_chunk_size 8192 llama4
attn_config.prefix_lm false mpt
attn_config.qk_ln false mpt
attn_config.softmax_scale null mpt
attn_logit_softcapping null gemma3 gemma-embedding
attn_scale 0.1 llama4
attn_temperature_tuning true|4 llama4
clip_qkv null olmoe
dim_model_base 256 minicpm3
feed_forward_proj "relu"|"gated-gelu" t5 t5encoder
floor_scale 8192 llama4
is_decoder false bert
logit_scale null mpt
mamba_hidden_act "silu" nemotron_h nemotron_h_moe
moe_renormalize true kimi-linear
multi_query true starcoder
mup_enabled true afmoe
norm_head false bailingmoe
norm_topk_prob true grovemoe lfm2moe mellum qwen35moe qwen3moe rnd1 qwen3next qwen3vlmoe
norm_topk_prob true smallthinker
norm_topk_prob false deepseek llada-moe olmoe qwen2moe
parallel_attn true falcon
position_embedding_type "absolute" bert
relative_attention_max_distance 128 t5 t5encoder
rope_interleave true deepseek2 mistral4
routed_scaling_factor 1.0 lfm2moe
router_jitter_noise null phimoe
scale_attn_by_inverse_layer_idx false gpt2
scale_attn_weights true gpt2 starcoder
scale_decoder_outputs false t5
scale_depth 1.4 minicpm3
scale_emb 12 minicpm3
shared_expert_combination_strategy "average" cohere2moe
swiglu_alpha 1.702 gpt-oss
swiglu_limit 7.0 gpt-oss
topk_method "noaux_tc"|"greedy" deepseek2
use_bidirectional_attention false|"vision" gemma gemma2 gemma3 gemma4
use_bidirectional_attention true gemma-embedding
"""


def _allowed() -> dict[str, dict[str, tuple[Any, ...]]]:
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for line in _ROWS.strip().splitlines():
        key, values, *names = line.split()
        for name in names:
            found.setdefault(name, {})[key] = tuple(map(json.loads, values.split("|")))
    return found


ALLOWED = _allowed()
_FUNCTION_OF = {name: kind for kind, names in _FUNCTIONS.items() for name in names.split()}


def taken(
    settings: Settings, metadata: Mapping[str, Any], architecture: str, names: frozenset[str]
) -> Iterator[str]:
    """A remark on the settings of a class that its GGUF does not keep.

    `metadata` are the key/values that were made of them, `names` those of the GGUF's tensors.
    """
    found = [
        f"{key} = {_shown(value)} ({why})"
        for key, value, why in _contradictions(settings, metadata, architecture)
    ]
    if found:
        yield (
            f"config.json: a GGUF of {architecture!r} has no key for {', '.join(found[:8])}: "
            "llama.cpp computes something else than transformers"
        )
    yield from _heads(settings, names)


def _contradictions(
    settings: Settings, metadata: Mapping[str, Any], architecture: str
) -> Iterator[tuple[str, Any, str]]:
    """Settings, their values, and what llama.cpp takes."""
    if architecture not in _OWN_KEY:
        kind = _FUNCTION_OF.get(architecture, "silu")
        for name in _NAMES:
            value = settings.get(name)
            if value is not None and value not in _KINDS[kind].split():
                yield name, value, f"llama.cpp takes {kind!r}"
            if value is not None:
                break
    for key, allowed in ALLOWED.get(architecture, {}).items():
        value = settings.get(key)
        if value is not None and value not in allowed:
            usual = "none" if allowed[0] is None else _shown(allowed[0])
            yield key, value, f"llama.cpp takes {usual}"
    yield from _windows(settings, metadata, architecture)
    for key, rule in _RULES.get(architecture, {}).items():
        value, expected = settings.get(key), rule(settings)
        if None not in (value, expected) and value != expected:
            yield key, value, f"llama.cpp takes {_shown(expected)}"
    width = settings.get("head_dim")
    latent = settings.get("kv_lora_rank") is not None
    said = f"{architecture}.attention.key_length" in metadata
    if isinstance(width, int) and not latent and not said and width != split_width(settings) > 0:
        yield "head_dim", width, f"llama.cpp takes {split_width(settings)}"
    if settings.scaling == "yarn" and settings.rope.get("truncate") is False:
        yield "rope_parameters.truncate", False, "llama.cpp takes true"
    limits = settings.get("time_step_limit")
    if isinstance(limits, list) and limits[:1] != [0.0]:
        yield "time_step_limit", limits, "llama.cpp takes no limits"


def _windows(
    settings: Settings, metadata: Mapping[str, Any], architecture: str
) -> Iterator[tuple[str, Any, str]]:
    """A window of attention, or rotary embeddings of layers with one, that is not said."""
    size, most = settings.get("sliding_window"), settings.number("max_position_embeddings")
    kinds = settings.get("layer_types")
    some = not isinstance(kinds, list) or "sliding_attention" in kinds
    if (
        isinstance(size, int)
        and 0 < size < (most or math.inf)
        and some
        and settings.get("use_sliding_window") is not False
        and f"{architecture}.attention.sliding_window" not in metadata
    ):
        yield "sliding_window", size, "llama.cpp looks at everything"
    kind = settings.window.get("rope_type")
    if kind not in (None, "default"):
        yield "rope_parameters.sliding_attention.rope_type", kind, "llama.cpp scales none"


def _heads(settings: Settings, names: frozenset[str]) -> Iterator[str]:
    """A remark on a matrix of the output that is, or is not, that of the embeddings."""
    tied, there = settings.get("tie_word_embeddings"), "output.weight" in names
    if tied is True and there:
        yield (
            "config.json: tie_word_embeddings is true, and the folder has a matrix of the output: "
            "llama.cpp computes with it, transformers with that of the embeddings"
        )
    if tied is False and not there and "token_embd.weight" in names:
        yield (
            "config.json: tie_word_embeddings is false, and the folder has no matrix of the "
            "output: llama.cpp computes with that of the embeddings, transformers with random "
            "numbers"
        )


def _scalar(layers_of_27b: int) -> Rule:
    """Gemma's scale of attention: that of a head, or of the largest model an equal part's."""

    def expected(settings: Settings) -> int:
        largest = settings.layers == layers_of_27b
        return split_width(settings) if largest else settings.width

    return expected


def _layers_with_rotary(settings: Settings) -> list[int]:
    """Layers with rotary embeddings: all but every fourth."""
    return [int((number + 1) % 4 != 0) for number in range(settings.layers)]


def _windowed_layers(settings: Settings) -> list[int]:
    """SmallThinker's layers with a window and rotary embeddings, or with the latter alone."""
    if any(settings.get("sliding_window_layout") or ()):
        return [int(number % 4 != 0) for number in range(settings.layers)]
    return [1] * settings.layers


def _rotary_kind(settings: Settings) -> str:
    """Whether Granite's hybrids have rotary embeddings: those without state-space layers do."""
    kinds = settings.kinds()
    return "rope" if kinds and not {"mamba", "linear_attention"}.intersection(kinds) else "nope"


_RULES: dict[str, dict[str, Rule]] = {
    # Windows, and layers without rotary embeddings, are those of a model of so many layers.
    "exaone4": {"sliding_window": lambda s: None if s.layers == _LAYERS_OF_32B else 0},
    # Tied matrices are multiplied as the embeddings are.
    "falcon-h1": {
        "lm_head_multiplier": lambda s: (
            s.get("embedding_multiplier") if s.get("tie_word_embeddings") else None
        ),
        "mamba_norm_before_gate": lambda s: False if s.get("mamba_rms_norm") else None,
    },
    "gemma2": {"query_pre_attn_scalar": _scalar(LAYERS_OF_27B["gemma2"])},
    "gemma3": {"query_pre_attn_scalar": _scalar(LAYERS_OF_27B["gemma3"])},
    "gemma-embedding": {"query_pre_attn_scalar": _scalar(0)},
    "granitehybrid": {
        "position_embedding_type": _rotary_kind,
        # Bamba's: rows of heads are moved as if all of a head turned.
        "rope_parameters.partial_rotary_factor": lambda s: (
            1.0 if s.get("model_type") == "bamba" else None
        ),
    },
    "llama4": {
        "no_rope_layers": _layers_with_rotary,
        "use_qk_norm": lambda s: s.get("num_local_experts") != EXPERTS_OF_MAVERICK,
    },
    "mamba": {
        "mixer_rms_eps": lambda s: (
            s.get("layer_norm_epsilon") if s.get("model_type") == "falcon_mamba" else None
        )
    },
    # A window is of 4,096, in all layers but every fourth, which alone do not turn.
    "smallthinker": {
        "rope_layout": _windowed_layers,
        "sliding_window_layout": _windowed_layers,
        "sliding_window_size": lambda s: (
            4096 if any(s.get("sliding_window_layout") or ()) else None
        ),
    },
    "smollm3": {"no_rope_layers": _layers_with_rotary, "no_rope_layer_interval": lambda _: 4},
}


def _shown(value: Any) -> str:
    """A value as it stands in `config.json`, no longer than a line takes."""
    return f"{json.dumps(value):.60}"
