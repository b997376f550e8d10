"""What `config.json` says, in one level: settings, and rotary ones wherever they stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MIRRORED = {
    "rope_theta": (
        "global_rope_theta rope_global_theta rope_theta_global rope_theta rotary_emb_base"
    ),
    "partial_rotary_factor": "partial_rotary_factor rope_pct rope_percent",
    "original_max_position_embeddings": "original_max_position_embeddings",
}
_LOCAL = (
    "local_rope_theta rope_local_theta rope_theta_local swa_rope_theta rope_local_base_freq"
).split()
# Where a multimodal model's configuration has its text model: in transformers, and in the code
# beside InternVL, DeepSeek-OCR and others.
_TEXT_BLOCKS = ("text_config", "llm_config", "language_config", "lm_config")


class Settings:
    """A configuration with its text model's block, and rotary settings wherever they stand.

    `rope` are those of layers with full attention, `window` of those with a sliding window.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.values = {**config, **text_block(config)}
        found = self.values.get("rope_parameters") or self.values.get("rope_scaling")
        rope = dict(found) if isinstance(found, Mapping) else {}
        full, window = rope.get("full_attention"), rope.get("sliding_attention")
        if full is None and window is None:
            for key, names in _MIRRORED.items():
                if rope.get(key) is None:
                    rope[key] = self.first(*names.split())
            base = self.first(*_LOCAL)
            window = None if base is None else {"rope_theta": base}
        self.rope: Mapping[str, Any] = full if isinstance(full, Mapping) else rope
        self.window: Mapping[str, Any] = window if isinstance(window, Mapping) else {}

    def get(self, path: str) -> Any:
        """The value at a path, with dots between blocks and items; None where it is not there."""
        found: Any = self.values
        for key in path.split("."):
            if isinstance(found, list) and key.isdigit():
                found = found[int(key)] if int(key) < len(found) else None
            else:
                found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def first(self, *paths: str) -> Any:
        """The first of several that is there."""
        return next((v for v in map(self.get, paths) if v is not None), None)

    def whole(self, *paths: str) -> int:
        """The first whole number of several, 0 where there is none, or one that is no number."""
        found = self.number(*paths)
        return int(found) if isinstance(found, int) or math.isfinite(found) else 0

    def number(self, *paths: str) -> Any:
        """The first number of several, 0 where there is none."""
        found = self.first(*paths)
        return found if isinstance(found, (int, float)) else 0

    @property
    def scaling(self) -> str:
        """The kind of the rotary embeddings' scaling; "" where there is none."""
        kind = self.rope.get("rope_type") or self.rope.get("type")
        return "" if kind in (None, "default") else str(kind)

    @property
    def hidden(self) -> int:
        return self.whole("hidden_size", "n_embd", "d_model")

    @property
    def heads(self) -> int:
        return self.whole("num_attention_heads", "n_head", "n_heads")

    @property
    def layers(self) -> int:
        return self.whole("n_layers", "num_hidden_layers", "n_layer", "num_layers")

    @property
    def width(self) -> int:
        """Of a head."""
        return self.whole("head_dim") or split_width(self)

    def kinds(self) -> list[str]:
        """What each layer is, in words or in Nemotron-H's letters; empty where it is not said."""
        found = self.first("layer_types", "hybrid_override_pattern", "layers_block_type")
        return [str(kind) for kind in found] if isinstance(found, (list, str)) else []


def text_block(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a configuration says of the text model inside of it; empty where it is one itself."""
    thinker = config.get("thinker_config")  # Qwen's Omni, beside the one who talks
    for holder in (config, thinker if isinstance(thinker, Mapping) else {}):
        for name in _TEXT_BLOCKS:
            block = holder.get(name)
            if isinstance(block, Mapping):
                return block
    return {}


def class_name(config: Mapping[str, Any]) -> str:
    """The first class that a configuration names; "" where it names none."""
    found = config.get("architectures")
    return str(found[0]) if isinstance(found, list) and found else ""


def split_width(settings: Settings) -> int:
    """The width of a head that is an equal part of the hidden size."""
    return settings.hidden // settings.heads if settings.heads else 0


def padding_rows(config: Mapping[str, Any]) -> int:
    """Rows of RoBERTa's positions before the first one: the padding's number and one more."""
    number = config.get("pad_token_id")
    return number + 1 if isinstance(number, int) else 0
