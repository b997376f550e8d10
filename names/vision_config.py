"""`config.json` of a text model and its vision tower, out of the key/values of both files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anamnesis.names.processor import gemma3_tokens

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class TowerClass:
    """What a class with a tower says.

    `rows` are keys of `vision_config` and the GGUF keys after `clip.vision.` that they come from;
    `constants` belong there too. `whole` and `whole_rows` are keys beside it, `tokens` those whose
    value is the id of a token of that text. `lacks` are keys that no file has.
    """

    model_type: str
    tower_type: str
    text_type: str = ""  # where the text model has another in here
    rows: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)
    whole_rows: str = ""
    tokens: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


_SIGLIP = """
hidden_size          embedding_length
intermediate_size    feed_forward_length
num_hidden_layers    block_count
num_attention_heads  attention.head_count
image_size           image_size
patch_size           patch_size
layer_norm_eps       attention.layer_norm_epsilon
"""
_QWEN = """
depth                block_count
num_heads            attention.head_count
patch_size           patch_size
"""
_QWEN_OUT = (
    _QWEN
    + """
hidden_size          embedding_length
intermediate_size    feed_forward_length
out_hidden_size      projection_dim
"""
)
_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_start_token_id": "<|vision_start|>",
}

CLASSES: dict[str, TowerClass] = {
    "Gemma3ForConditionalGeneration": TowerClass(
        "gemma3",
        "siglip_vision_model",
        rows=_SIGLIP,
        constants={"vision_use_head": False},
        tokens={
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
        },
    ),
    "Idefics3ForConditionalGeneration": TowerClass(
        "idefics3",
        "idefics3_vision",
        rows=_SIGLIP,
        whole_rows="scale_factor projector.scale_factor",
        tokens={"image_token_id": "<image>"},
    ),
    "LlavaForConditionalGeneration": TowerClass(
        "llava",
        "pixtral",
        rows=_SIGLIP.replace("layer_norm_eps ", "rms_norm_eps   "),
        whole={
            "multimodal_projector_bias": True,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        tokens={"image_token_index": "[IMG]"},
    ),
    "Qwen2VLForConditionalGeneration": TowerClass(
        "qwen2_vl",
        "qwen2_vl",
        "qwen2_vl_text",
        _QWEN + "embed_dim embedding_length\nhidden_size projection_dim\n",
        tokens=_QWEN_TOKENS,
    ),
    "Qwen2_5_VLForConditionalGeneration": TowerClass(
        "qwen2_5_vl",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        _QWEN_OUT,
        tokens=_QWEN_TOKENS,
        lacks=("vision_config.window_size",),
    ),
    "Qwen3VLForConditionalGeneration": TowerClass(
        "qwen3_vl",
        "qwen3_vl",
        "qwen3_vl_text",
        _QWEN_OUT + "spatial_merge_size spatial_merge_size\n",
        tokens=_QWEN_TOKENS,
    ),
}

_PREFIX = "clip.vision."
_SHARED = ("torch_dtype", "dtype", "tie_word_embeddings")


def with_tower(
    architecture: str, text: Mapping[str, Any], metadata: Metadata, tokens: Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration of text model and tower together, and a remark on what it does not say.

    `metadata` are the tower's key/values, `tokens` the text model's.
    """
    row = CLASSES[architecture]
    inner = {key: value for key, value in text.items() if key != "architectures"}
    inner["model_type"] = row.text_type or inner["model_type"]
    vision = {"model_type": row.tower_type, **_found(row.rows, metadata), **row.constants}
    vision |= _derived(architecture, metadata)
    config: dict[str, Any] = {"architectures": [architecture], "model_type": row.model_type}
    config |= {key: text[key] for key in _SHARED if key in text}
    config |= row.whole
    config |= _found(row.whole_rows, metadata)
    if architecture == "Gemma3ForConditionalGeneration":
        config["mm_tokens_per_image"] = gemma3_tokens(
            lambda key: int(metadata.get(_PREFIX + key, 0))
        )
    config |= {key: tokens.index(word) for key, word in row.tokens.items() if word in tokens}
    absent = [key for key in row.tokens if key not in config]
    lacks = ", ".join((*absent, *row.lacks))
    why = f"config.json: a GGUF does not say {lacks}; complete it from the original model"
    config |= {"text_config": inner, "vision_config": vision}
    return config, (why,) if lacks else ()


def _found(rows: str, metadata: Metadata) -> dict[str, Any]:
    pairs = [line.split() for line in rows.splitlines() if line.strip()]
    found = {key: metadata.get(_PREFIX + source) for key, source in pairs}
    return {key: _decimal(value) for key, value in found.items() if value is not None}


def _decimal(value: Any) -> Any:
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _derived(architecture: str, metadata: Metadata) -> dict[str, Any]:
    """Keys that follow from several, or from lists."""

    def get(key: str) -> int:
        return int(metadata.get(_PREFIX + key, 0) or 0)

    if architecture == "Qwen2VLForConditionalGeneration":
        return {"mlp_ratio": get("feed_forward_length") // max(1, get("embedding_length"))}
    if architecture == "Qwen2_5_VLForConditionalGeneration":
        every = get("n_wa_pattern")
        layers = range(every - 1, get("block_count"), every) if every else ()
        return {"fullatt_block_indexes": list(layers)}
    if architecture == "Qwen3VLForConditionalGeneration":
        flags = metadata.get(f"{_PREFIX}is_deepstack_layers") or []
        side = get("image_size") // max(1, get("patch_size"))
        return {
            "deepstack_visual_indexes": [i for i, flag in enumerate(flags) if flag],
            "num_position_embeddings": side * side,
        }
    return {}
