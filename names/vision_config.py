"""`config.json` of a text model and its vision tower, out of the key/values of both files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anamnesis.names.config_class import decimal
from anamnesis.names.vision_sizes import PREFIX, beside, derived

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class TowerClass:
    """What a class with a tower says.

    `rows` are keys of `vision_config` and the GGUF keys after `clip.vision.` that they come from;
    `constants` belong there too. `whole` and `whole_rows` are keys beside it, `tokens` those whose
    value is the id of a token of that text. `after` is one of these whose token follows those of a
    vocabulary that has it not. `lacks` are keys that no file has.
    """

    model_type: str
    tower_type: str
    text_type: str = ""  # where the text model has another in here
    rows: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)
    whole_rows: str = ""
    tokens: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
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
_QWEN3 = _QWEN_OUT + "spatial_merge_size spatial_merge_size\n"
_GLM = (
    _QWEN_OUT
    + """
image_size           image_size
rms_norm_eps         attention.layer_norm_epsilon
"""
)
_PIXTRAL = _SIGLIP.replace("layer_norm_eps ", "rms_norm_eps   ")
_GLM_TOKENS = {
    "image_end_token_id": "<|end_of_image|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_token_id": "<|image|>",
    "video_end_token_id": "<|end_of_video|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_token_id": "<|video|>",
}
_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_start_token_id": "<|vision_start|>",
}

_GEMMA4_TOKENS = {
    "audio_token_id": "<|audio|>",
    "boa_token_id": "<|audio>",
    "boi_token_id": "<|image>",
    "eoa_token_index": "<audio|>",
    "eoi_token_id": "<image|>",
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
}
_PADDLE_TOKENS = {
    "image_token_id": "<|IMAGE_PLACEHOLDER|>",
    "video_token_id": "<|video_pad|>",
    "vision_end_token_id": "<|IMAGE_END|>",
    "vision_start_token_id": "<|IMAGE_START|>",
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
        after="image_token_index",  # the converter takes those of `tokenizer.model` alone
    ),
    "Gemma4ForConditionalGeneration": TowerClass(
        "gemma4",
        "gemma4_vision",
        "gemma4_text",
        _SIGLIP.replace("image_size           image_size\n", "").replace(
            "layer_norm_eps ", "rms_norm_eps   "
        ),
        tokens=_GEMMA4_TOKENS,
    ),
    "Glm4vForConditionalGeneration": TowerClass(
        "glm4v", "glm4v_vision", "glm4v_text", _GLM, tokens=_GLM_TOKENS
    ),
    "Glm4vMoeForConditionalGeneration": TowerClass(
        "glm4v_moe", "glm4v_moe_vision", "glm4v_moe_text", _GLM, tokens=_GLM_TOKENS
    ),
    "GlmOcrForConditionalGeneration": TowerClass(
        "glm_ocr", "glm_ocr_vision", "glm_ocr_text", _GLM, tokens=_GLM_TOKENS
    ),
    "HunYuanVLForConditionalGeneration": TowerClass(
        "hunyuan_vl",
        "hunyuan_vl_vision",
        "hunyuan_vl_text",
        _PIXTRAL.replace("image_size           image_size", "max_image_size       image_size")
        + "spatial_merge_size   spatial_merge_size\n",
        tokens={
            "im_end_id": "<｜hy_place▁holder▁no▁101｜>",
            "im_newline_id": "<｜hy_place▁holder▁no▁103｜>",
            "im_start_id": "<｜hy_place▁holder▁no▁100｜>",
            "image_token_id": "<｜hy_place▁holder▁no▁102｜>",
        },
    ),
    "Idefics3ForConditionalGeneration": TowerClass(
        "idefics3",
        "idefics3_vision",
        rows=_SIGLIP,
        whole_rows="scale_factor projector.scale_factor",
        tokens={"image_token_id": "<image>"},
    ),
    "InternVLForConditionalGeneration": TowerClass(
        "internvl",
        "internvl_vision",
        rows=_SIGLIP,
        tokens={"image_token_id": "<IMG_CONTEXT>"},
    ),
    "Lfm2VlForConditionalGeneration": TowerClass(
        "lfm2_vl",
        "siglip2_vision_model",
        rows=_SIGLIP,
        constants={"vision_use_head": False},
        whole_rows="downsample_factor projector.scale_factor",
        tokens={"image_token_id": "<image>"},
    ),
    "LightOnOcrForConditionalGeneration": TowerClass(
        "lighton_ocr",
        "pixtral",
        rows=_PIXTRAL,
        whole_rows="spatial_merge_size spatial_merge_size",
        tokens={"image_token_id": "<|image_pad|>"},
    ),
    "Llama4ForConditionalGeneration": TowerClass(
        "llama4",
        "llama4_vision_model",
        rows=_SIGLIP.replace("layer_norm_eps ", "norm_eps       "),
        tokens={
            "boi_token_index": "<|image_start|>",
            "eoi_token_index": "<|image_end|>",
            "image_token_index": "<|patch|>",
        },
    ),
    "LlavaForConditionalGeneration": TowerClass(
        "llava",
        "pixtral",
        rows=_PIXTRAL,
        whole={
            "multimodal_projector_bias": True,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        tokens={"image_token_index": "[IMG]"},
    ),
    "Mistral3ForConditionalGeneration": TowerClass(
        "mistral3",
        "pixtral",
        rows=_PIXTRAL,
        whole={
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
        },
        whole_rows="spatial_merge_size spatial_merge_size",
        tokens={"image_token_index": "[IMG]"},
    ),
    "PaddleOCRVLForConditionalGeneration": TowerClass(
        "paddleocr_vl",
        "paddleocr_vl_vision",
        "paddleocr_vl_text",
        _SIGLIP,
        tokens=_PADDLE_TOKENS,
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
        "qwen3_vl", "qwen3_vl", "qwen3_vl_text", _QWEN3, tokens=_QWEN_TOKENS
    ),
    "Qwen3VLMoeForConditionalGeneration": TowerClass(
        "qwen3_vl_moe", "qwen3_vl_moe", "qwen3_vl_moe_text", _QWEN3, tokens=_QWEN_TOKENS
    ),
    "Qwen3_5ForConditionalGeneration": TowerClass(
        "qwen3_5", "qwen3_5", "qwen3_5_text", _QWEN3, tokens=_QWEN_TOKENS
    ),
    "Qwen3_5MoeForConditionalGeneration": TowerClass(
        "qwen3_5_moe", "qwen3_5_moe", "qwen3_5_moe_text", _QWEN3, tokens=_QWEN_TOKENS
    ),
}

_SHARED = ("torch_dtype", "dtype", "tie_word_embeddings")


def with_tower(
    architecture: str,
    text: Mapping[str, Any],
    metadata: Metadata,
    tokens: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration of text model and tower together, and a remark on what it does not say.

    `metadata` are the tower's key/values, `tokens` the text model's, `shapes` those of all tensors
    by their names in the folder.
    """
    row = CLASSES[architecture]
    inner = {key: value for key, value in text.items() if key != "architectures"}
    inner["model_type"] = row.text_type or inner["model_type"]
    vision = {"model_type": row.tower_type, **_found(row.rows, metadata), **row.constants}
    vision |= derived(row.tower_type, metadata, shapes)
    config: dict[str, Any] = {"architectures": [architecture], "model_type": row.model_type}
    config |= {key: text[key] for key in _SHARED if key in text}
    config |= row.whole
    config |= _found(row.whole_rows, metadata)
    config |= beside(row.model_type, metadata, shapes)
    config |= {key: tokens.index(word) for key, word in row.tokens.items() if word in tokens}
    absent = [key for key in row.tokens if key not in config]
    if absent == [row.after]:  # a tokenizer that is asked for it puts it there
        config[row.after] = len(tokens)
        absent = []
    lacks = ", ".join((*absent, *row.lacks))
    why = f"config.json: a GGUF does not say {lacks}; complete it from the original model"
    config |= {"text_config": inner, "vision_config": vision}
    return config, (why,) if lacks else ()


def _found(rows: str, metadata: Metadata) -> dict[str, Any]:
    pairs = [line.split() for line in rows.splitlines() if line.strip()]
    found = {key: metadata.get(PREFIX + source) for key, source in pairs}
    return {key: decimal(value) for key, value in found.items() if value is not None}
