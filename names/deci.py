"""The blocks of DeciLM's configuration (Nemotron Super and Ultra), both ways.

Each layer has heads and a width of its own, or lacks attention or the feed-forward part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.names.settings import Settings
from anamnesis.readers.model import Model

_WHOLE = 256  # widths are multiples of it


def heads(settings: Settings, _: str) -> list[int] | None:
    """Heads by layer of DeciLM's blocks, 0 where a layer has no attention."""
    count = settings.heads
    groups = _of_blocks(settings, "attention", "n_heads_in_group")
    return None if groups is None else [count if group else 0 for group in groups]


def key_heads(settings: Settings, _: str) -> list[int] | None:
    """Heads of keys by layer of the same: one for so many of queries."""
    count = settings.heads
    groups = _of_blocks(settings, "attention", "n_heads_in_group")
    return None if groups is None else [count // group if group else 0 for group in groups]


def widths(settings: Settings, _: str) -> list[int] | None:
    """Widths of feed-forward layers of the same, 0 where there is none.

    (`_ffn_mult_to_intermediate_size` of the models' own code: two thirds of a multiple of the
    hidden size, rounded up to whole 256.)
    """
    factors = _of_blocks(settings, "ffn", "ffn_mult")
    if factors is None:
        return None
    found = (int(2 * factor * settings.hidden / 3) if factor else 0 for factor in factors)
    return [-(width // -_WHOLE) * _WHOLE for width in found]


def _of_blocks(settings: Settings, part: str, key: str) -> list[Any] | None:
    """A setting of a part of each block; ValueError for one that does without it."""
    blocks = settings.get("block_configs")
    if not isinstance(blocks, list):
        return None
    found = []
    for number, block in enumerate(blocks):
        said = block.get(part)
        if said.get("replace_with_linear"):
            raise ValueError(f"block_configs: {part} of layer {number} is linear")
        if said.get(key) is None and said.get("no_op") is False:
            raise ValueError(f"block_configs: {part} of layer {number} has no {key}")
        found.append(said.get(key))
    return found


def blocks(config: dict[str, Any], values: Mapping[str, Any], prefix: str, model: Model) -> None:
    """What each layer of DeciLM has: so many heads to one of keys, and how wide it is."""
    hidden, count = config["hidden_size"], config["num_attention_heads"]
    kv, inner = (
        values.get(f"{prefix}.{key}") for key in ("attention.head_count_kv", "feed_forward_length")
    )
    if not isinstance(kv, list) or not isinstance(inner, list):
        config |= {"num_key_value_heads": kv, "intermediate_size": inner}
        return
    config |= {"num_key_value_heads": None, "intermediate_size": None}
    config["block_configs"] = [
        {
            "attention": _block("n_heads_in_group", count // few if few else None),
            "ffn": _block("ffn_mult", 1.5 * width / hidden if width else None),
        }
        for few, width in zip(kv, inner, strict=True)
    ]


def _block(key: str, value: float | None) -> dict[str, Any]:
    return {key: value, "no_op": value is None, "replace_with_linear": False}
