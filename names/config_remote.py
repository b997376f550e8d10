"""Keys of `config.json` of models whose code lies beside their weights (see `config_changes`)."""

from __future__ import annotations

from anamnesis.names.config_changes import Config, Values
from anamnesis.readers.model import Model

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
