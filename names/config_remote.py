"""Keys of `config.json` of models whose code lies beside their weights (see `config_changes`)."""

from __future__ import annotations

import math

from anamnesis.names.config_changes import Config, Values
from anamnesis.names.config_class import decimal
from anamnesis.readers.model import Model

_OPENELM_WIDTH = 256  # of which widths of feed-forward layers are multiples

# What LLaDA has under other names, or not at all.
_USUAL = (
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
)


def llada(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The names that its own code has of what the tensors tell."""
    config["embedding_size"] = config.get("vocab_size")
    config["weight_tying"] = config.pop("tie_word_embeddings", False)
    for key in _USUAL:
        config.pop(key, None)
    config["mask_token_id"] = values.get("tokenizer.ggml.mask_token_id")


def small_thinker(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Layers with a window, which alone turn: all but every fourth, where there is a window."""
    layers = range(config.get("num_hidden_layers", 0))
    window = config.pop("sliding_window", None)
    some = [int(layer % 4 != 0) for layer in layers]
    config["sliding_window_size"] = window
    config["sliding_window_layout"] = some if window else [0 for _ in layers]
    config["rope_layout"] = some if window else [1 for _ in layers]
    gating = values.get(f"{prefix}.expert_gating_func")
    config["moe_primary_router_apply_softmax"] = gating == 1
    config.pop("intermediate_size", None)


def openelm(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Feed-forward widths as multiples of the hidden size; its own name of tied matrices."""
    widths = values.get(f"{prefix}.feed_forward_length", [])
    config["ffn_multipliers"] = [width / config["model_dim"] for width in widths]
    config["ffn_dim_divisor"] = math.gcd(_OPENELM_WIDTH, *widths)
    config["rope_max_length"] = 2 * config.get("max_context_length", 0)
    config["share_input_output_layers"] = config.pop("tie_word_embeddings", True)
    for key in ("intermediate_size", "num_hidden_layers"):
        config.pop(key, None)


def plm(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The part of a key that does not turn."""
    length = values.get(f"{prefix}.attention.key_length", 0)
    config["qk_nope_head_dim"] = length - config.get("qk_rope_head_dim", 0)
    config["q_lora_rank"] = None


def qwen(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The width of its feed-forward layers, of which it says the double, and that of a head."""
    config["intermediate_size"] = 2 * config.get("intermediate_size", 0)
    heads = max(1, config.get("num_attention_heads", 0))
    config.setdefault("kv_channels", config.get("hidden_size", 0) // heads)
    epsilon = values.get(f"{prefix}.attention.layer_norm_epsilon")  # the converter's name of it
    if "layer_norm_epsilon" not in config and epsilon is not None:
        config["layer_norm_epsilon"] = decimal(epsilon)


def neo_bert(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The width of its feed-forward layers, two thirds of which are used."""
    config["intermediate_size"] = 3 * config.get("intermediate_size", 0) // 2


def nomic_experts(config: Config, values: Values, prefix: str, model: Model) -> None:
    """What Nomic's mixture of experts has, where every so many layers have some."""
    every = values.get(f"{prefix}.moe_every_n_layers")
    if every:
        config |= {"activation_function": "gelu", "moe_every_n_layers": every}
        config |= dict.fromkeys(("mlp_fc1_bias", "mlp_fc2_bias", "qkv_proj_bias"), True)
        config["moe_top_k"] = values.get(f"{prefix}.expert_used_count")
        config["num_experts"] = values.get(f"{prefix}.expert_count")
        config |= {"rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False}
