"""The files of a model's processor: how an image becomes what its vision tower takes.

A GGUF has sizes, means and deviations. What it does not have is the class's own: how an image is
resampled, and of Qwen's how many pixels it may have, which are those of the published models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anamnesis.names.config_class import decimal

Get = Callable[[str], int]
Made = Callable[[Get], dict[str, Any]]

_PREFIX = "clip.vision."
_GEMMA3_POOLED = 4  # patches along a side that one token of Gemma 3 stands for


@dataclass(frozen=True)
class Processor:
    """The classes of a processor, and what sizes make of their settings.

    `images` are settings of the image processor, `texts` of what puts tokens in place of images;
    `tokens` are special tokens that it asks its tokenizer for, by name.
    """

    name: str
    image_processor: str
    images: Made
    texts: Made = lambda get: {}
    video_processor: str = ""
    tokens: Mapping[str, str] = field(default_factory=dict)


def gemma3_tokens(get: Get) -> int:
    """How many tokens of Gemma 3 an image is."""
    side = get("image_size") // max(1, get("patch_size"))
    return int((side // (get("projector.scale_factor") or _GEMMA3_POOLED)) ** 2)


def internvl_tokens(get: Get) -> int:
    """How many tokens of InternVL a tile is."""
    side = get("image_size") // max(1, get("patch_size"))
    return int((side // (get("projector.scale_factor") or 2)) ** 2)


def _internvl(get: Get) -> dict[str, Any]:
    return {
        "crop_to_patches": True,
        "max_patches": get("preproc_max_tiles") or 12,
        "min_patches": get("preproc_min_tiles") or 1,
        "size": {"height": get("image_size"), "width": get("image_size")},
    }


def _gemma4(get: Get) -> dict[str, Any]:
    return {"do_normalize": False, "patch_size": get("patch_size")}


def _gemma3(get: Get) -> dict[str, Any]:
    return {"size": {"height": get("image_size"), "width": get("image_size")}}


def _idefics3(get: Get) -> dict[str, Any]:
    side = get("image_size")
    return {
        "do_image_splitting": True,
        "do_pad": True,
        "max_image_size": {"longest_edge": side},
        "size": {"longest_edge": get("preproc_image_size") or 4 * side},
    }


def _idefics3_tokens(get: Get) -> dict[str, Any]:
    side = get("image_size") // max(1, get("patch_size"))
    return {"image_seq_len": (side // (get("projector.scale_factor") or 1)) ** 2}


def _pixtral(get: Get) -> dict[str, Any]:
    patch = get("patch_size")
    return {
        "patch_size": {"height": patch, "width": patch},
        "size": {"longest_edge": get("image_size")},
    }


def _qwen(least: int, most: int) -> Made:
    """Qwen's, for images of at least and at most so many pixels where the file does not say."""

    def made(get: Get) -> dict[str, Any]:
        return {
            "merge_size": get("spatial_merge_size") or 2,
            "patch_size": get("patch_size"),
            "size": {
                "longest_edge": get("image_max_pixels") or most,
                "shortest_edge": get("image_min_pixels") or least,
            },
            "temporal_patch_size": 2,
        }

    return made


def _lfm2(get: Get) -> dict[str, Any]:
    return {
        "do_image_splitting": True,
        "downsample_factor": get("projector.scale_factor") or 2,
        "encoder_patch_size": get("patch_size"),
    }


_LFM2_TOKENS = {
    "image_end_token": "<|image_end|>",
    "image_start_token": "<|image_start|>",
    "image_thumbnail": "<|img_thumbnail|>",
    "image_token": "<image>",
}
_GLM = Processor(
    "Glm4vProcessor",
    "Glm4vImageProcessor",
    _qwen(112 * 112, 28 * 28 * 15000),
    video_processor="Glm4vVideoProcessor",
)
_PIXTRAL = Processor(
    "PixtralProcessor",
    "PixtralImageProcessor",
    _pixtral,
    lambda get: {
        "patch_size": get("patch_size"),
        "spatial_merge_size": get("spatial_merge_size") or 1,
    },
)
_QWEN3 = Processor(
    "Qwen3VLProcessor",
    "Qwen2VLImageProcessor",
    _qwen(256 * 256, 4096 * 4096),
    video_processor="Qwen3VLVideoProcessor",
)
_QWEN2 = _qwen(56 * 56, 28 * 28 * 16384)


def _document(least: int, most: int) -> Made:
    """As Qwen's, an image at a time."""
    made = _qwen(least, most)
    return lambda get: made(get) | {"temporal_patch_size": 1}


PROCESSORS: Mapping[str, Processor] = {
    "Gemma3ForConditionalGeneration": Processor(
        "Gemma3Processor",
        "Gemma3ImageProcessor",
        _gemma3,
        lambda get: {"image_seq_length": gemma3_tokens(get)},
        tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "Gemma4ForConditionalGeneration": Processor(
        "Gemma4Processor",
        "Gemma4ImageProcessor",
        _gemma4,
        video_processor="Gemma4VideoProcessor",
        tokens={
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "boi_token": "<|image>",
            "eoa_token": "<audio|>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
        },
    ),
    "Glm4vForConditionalGeneration": _GLM,
    "Glm4vMoeForConditionalGeneration": _GLM,
    "GlmOcrForConditionalGeneration": replace(
        _GLM,
        name="Glm46VProcessor",
        image_processor="Glm46VImageProcessor",
        video_processor="Glm46VVideoProcessor",
    ),
    "HunYuanVLForConditionalGeneration": Processor(
        "HunYuanVLProcessor",
        "HunYuanVLImageProcessor",
        _document(512 * 512, 2048 * 2048),
        tokens={
            "image_end_token": "<｜hy_place▁holder▁no▁101｜>",
            "image_start_token": "<｜hy_place▁holder▁no▁100｜>",
            "image_token": "<｜hy_place▁holder▁no▁102｜>",
        },
    ),
    "Idefics3ForConditionalGeneration": Processor(
        "Idefics3Processor", "Idefics3ImageProcessor", _idefics3, _idefics3_tokens
    ),
    "InternVLForConditionalGeneration": Processor(
        "InternVLProcessor",
        "GotOcr2ImageProcessor",
        _internvl,
        lambda get: {"image_seq_length": internvl_tokens(get)},
        video_processor="InternVLVideoProcessor",
        tokens={
            "context_image_token": "<IMG_CONTEXT>",
            "end_image_token": "</img>",
            "start_image_token": "<img>",
            "video_token": "<video>",
        },
    ),
    "Lfm2VlForConditionalGeneration": Processor(
        "Lfm2VlProcessor", "Lfm2VlImageProcessor", _lfm2, tokens=_LFM2_TOKENS
    ),
    "LightOnOcrForConditionalGeneration": replace(
        _PIXTRAL,
        name="LightOnOcrProcessor",
        tokens={
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
            "image_token": "<|image_pad|>",
        },
    ),
    "Llama4ForConditionalGeneration": Processor(
        "Llama4Processor",
        "Llama4ImageProcessor",
        _gemma3,
        lambda get: {
            "patch_size": get("patch_size"),
            "pixel_shuffle_ratio": 1 / (get("projector.scale_factor") or 2),
        },
    ),
    "LlavaForConditionalGeneration": _PIXTRAL,
    "Mistral3ForConditionalGeneration": _PIXTRAL,
    "PaddleOCRVLForConditionalGeneration": Processor(
        "PaddleOCRVLProcessor",
        "PaddleOCRVLImageProcessor",
        _document(384 * 384, 1536 * 1536),
        tokens={"image_token": "<|IMAGE_PLACEHOLDER|>"},
    ),
    "Qwen2VLForConditionalGeneration": Processor(
        "Qwen2VLProcessor",
        "Qwen2VLImageProcessor",
        _QWEN2,
        video_processor="Qwen2VLVideoProcessor",
    ),
    "Qwen2_5_VLForConditionalGeneration": Processor(
        "Qwen2_5_VLProcessor",
        "Qwen2VLImageProcessor",
        _QWEN2,
        video_processor="Qwen2VLVideoProcessor",
    ),
    "Qwen3VLForConditionalGeneration": _QWEN3,
    "Qwen3VLMoeForConditionalGeneration": _QWEN3,
    "Qwen3_5ForConditionalGeneration": _QWEN3,
    "Qwen3_5MoeForConditionalGeneration": _QWEN3,
}


def processor_files(architecture: str, metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The documents of a class's processor by file name; `metadata` are the tower's key/values."""
    row = PROCESSORS[architecture]

    def get(key: str) -> int:
        return int(metadata.get(_PREFIX + key, 0) or 0)

    images: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": row.image_processor,
        "processor_class": row.name,
        "rescale_factor": 1 / 255,
    }
    for key in ("image_mean", "image_std"):
        found = metadata.get(_PREFIX + key)
        if isinstance(found, list):
            images[key] = [decimal(float(number)) for number in found]
    images |= row.images(get)
    files = {
        "preprocessor_config.json": images,
        "processor_config.json": {"processor_class": row.name, **row.texts(get)},
    }
    if row.video_processor:
        videos = {k: v for k, v in images.items() if k not in ("image_processor_type", "size")}
        videos["video_processor_type"] = row.video_processor
        files["video_preprocessor_config.json"] = videos
    return files
