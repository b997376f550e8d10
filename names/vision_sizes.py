"""Keys of a vision tower's configuration that follow from several key/values, or from shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from anamnesis.names.config_class import decimal
from anamnesis.names.processor import gemma3_tokens, internvl_tokens

Metadata = Mapping[str, Any]
PREFIX = "clip.vision."


def derived(
    tower: str, metadata: Metadata, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Keys that follow from several, or from lists."""

    def get(key: str) -> int:
        return int(metadata.get(PREFIX + key, 0) or 0)

    if tower == "qwen2_vl":
        inner = shapes.get("visual.blocks.0.mlp.fc1.weight")  # converters write another width
        width = inner[0] if inner else get("feed_forward_length")
        return {"mlp_ratio": width // max(1, get("embedding_length"))}
    if tower == "qwen2_5_vl":
        every = get("n_wa_pattern")
        layers = range(every - 1, get("block_count"), every) if every else ()
        return {"fullatt_block_indexes": list(layers)}
    if tower == "pixtral":
        return {"hidden_act": "silu" if metadata.get("clip.use_silu") else "gelu"}
    if tower == "siglip2_vision_model":
        positions = shapes.get(
            "model.vision_tower.vision_model.embeddings.position_embedding.weight"
        )
        return {"num_patches": positions[0]} if positions else {}
    if tower == "gemma4_vision":
        return _gemma4(get, shapes)
    if tower == "internvl_vision":
        return _internvl(get, shapes)
    if tower == "paddleocr_vl_vision":  # image_size of the file is that of the largest image
        positions = shapes.get("visual.vision_model.embeddings.position_embedding.weight", (0,))
        return {"image_size": math.isqrt(positions[0]) * get("patch_size")}
    if tower == "llama4_vision_model":
        return _llama4(get("projector.scale_factor"), shapes)
    if tower.startswith("qwen3"):
        flags = metadata.get(f"{PREFIX}is_deepstack_layers") or []
        side = get("image_size") // max(1, get("patch_size"))
        return {
            "deepstack_visual_indexes": [i for i, flag in enumerate(flags) if flag],
            "num_position_embeddings": side * side,
        }
    return {}


def beside(
    model_type: str, metadata: Metadata, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Keys beside both blocks that follow from several, or from shapes."""
    if model_type == "gemma3":
        tokens = gemma3_tokens(lambda key: int(metadata.get(PREFIX + key, 0)))
        return {"mm_tokens_per_image": tokens}
    if model_type == "internvl":
        return _internvl_whole(metadata)
    if model_type == "gemma4":
        return {"audio_config": _gemma4_audio(metadata, shapes)}
    projector = "model.multi_modal_projector."
    inner = shapes.get(f"{projector}linear_1.weight")
    if model_type != "lfm2_vl" or inner is None:
        return {}
    return {
        "projector_bias": f"{projector}linear_1.bias" in shapes,
        "projector_hidden_size": inner[0],
        "projector_use_layernorm": f"{projector}layer_norm.weight" in shapes,
    }


def _llama4(factor: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Widths of the layers between tower and text model, and how patches are put together."""
    found: dict[str, Any] = {"pixel_shuffle_ratio": 1 / factor} if factor else {}
    for key, name, axis in (
        ("projector_input_dim", "vision_model.vision_adapter.mlp.fc1.weight", 0),
        ("projector_output_dim", "vision_model.vision_adapter.mlp.fc2.weight", 0),
        ("vision_output_dim", "multi_modal_projector.linear_1.weight", 1),
    ):
        if name in shapes:
            found[key] = shapes[name][axis]
    return found


def _gemma4(get: Callable[[str], int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    tower = "model.vision_tower."
    norms = shapes.get(f"{tower}encoder.layers.0.self_attn.q_norm.weight")
    table = shapes.get(f"{tower}patch_embedder.position_embedding_table")
    found: dict[str, Any] = {
        "num_key_value_heads": get("attention.head_count"),
        "standardize": f"{tower}std_bias" in shapes,
        "use_clipped_linears": f"{tower}encoder.layers.0.self_attn.q_proj.input_max" in shapes,
    }
    found |= {"head_dim": norms[0]} if norms else {}
    return found | ({"position_embedding_size": table[1]} if table else {})


def _gemma4_audio(
    metadata: Metadata, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any] | None:
    """The block of the tower for sounds; None where the file has none."""
    if not metadata.get("clip.has_audio_encoder"):
        return None
    tower = "model.audio_tower."
    layer, convolutions = f"{tower}layers.0.", f"{tower}subsample_conv_projection."
    found: dict[str, Any] = {"model_type": "gemma4_audio"}
    for key, source in (
        ("hidden_size", "embedding_length"),
        ("num_attention_heads", "attention.head_count"),
        ("num_hidden_layers", "block_count"),
        ("rms_norm_eps", "attention.layer_norm_epsilon"),
    ):
        if f"clip.audio.{source}" in metadata:
            found[key] = decimal(metadata[f"clip.audio.{source}"])
    for key, name, axis in (
        ("conv_kernel_size", f"{layer}lconv1d.depthwise_conv1d.weight", 2),
        ("output_proj_dims", f"{tower}output_proj.weight", 0),
    ):
        if name in shapes:
            found[key] = shapes[name][axis]
    sizes = [shapes.get(f"{convolutions}layer{number}.conv.weight") for number in range(2)]
    found |= {"subsampling_conv_channels": [s[0] for s in sizes if s]} if all(sizes) else {}
    found["use_clipped_linears"] = f"{layer}self_attn.q_proj.input_max" in shapes
    return found


def _internvl(get: Callable[[str], int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    layer = "vision_tower.encoder.layer.0."
    norm = "layer_norm" if f"{layer}layernorm_before.bias" in shapes else "rms_norm"
    return {
        "attention_bias": f"{layer}attention.q_proj.bias" in shapes,
        "image_size": [get("image_size")] * 2,
        "norm_type": norm,
        "patch_size": [get("patch_size")] * 2,
        "use_qk_norm": f"{layer}attention.q_norm.weight" in shapes,
    }


def _internvl_whole(metadata: Metadata) -> dict[str, Any]:
    factor = int(metadata.get(f"{PREFIX}projector.scale_factor", 0) or 0)
    return {
        "downsample_ratio": 1 / factor if factor else 0.5,
        "image_seq_length": internvl_tokens(lambda key: int(metadata.get(PREFIX + key, 0) or 0)),
    }
