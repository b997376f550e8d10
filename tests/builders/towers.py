"""A tiny Qwen2-VL as two GGUF files: a text model of one tensor, and a tower beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf_files import finish


def numbers(*shape: int) -> Any:
    """The same ones for a shape."""
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


def write(path: Path, name: str, keys: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A GGUF of an architecture."""
    import gguf

    writer = gguf.GGUFWriter(str(path), name)
    for key, value in keys.items():
        kinds = {int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        kinds |= {float: writer.add_float32, bool: writer.add_bool}
        kinds[type(value)](key, value)
    for tensor, array in tensors.items():
        writer.add_tensor(tensor, array)
    finish(writer)
    return path


def model(
    folder: Path, projector: str, tensors: dict[str, Any], text: str = "qwen2vl", **keys: Any
) -> Path:
    """A text model of one tensor, usually Qwen2-VL's, and a tower of that projector beside it."""
    sizes = {"embedding_length": 8, "block_count": 3, "feed_forward_length": 32, "patch_size": 4}
    sizes |= {"attention.head_count": 2, "projection_dim": 6, "image_size": 16} | keys
    settings = {"clip.projector_type": projector}
    settings |= {f"clip.vision.{key}": value for key, value in sizes.items()}
    write(folder / "mmproj-model.gguf", "clip", settings, tensors)
    words: dict[str, Any] = {"tokenizer.ggml.tokens": ["a", "<|image_pad|>", "<|vision_end|>"]}
    words[f"{text}.embedding_length"] = 6  # what the projector makes of 8
    words[f"{text}.attention.head_count"] = 2
    words[f"{text}.rope.dimension_sections"] = [2, 3, 3, 0]
    if text == "gemma4":  # which says it of every layer what it looks at
        words |= {"gemma4.block_count": 1, "gemma4.attention.sliding_window_pattern": [False]}
    norm = "token_embd_norm.weight" if text == "lfm2" else "output_norm.weight"
    return write(folder / "model.gguf", text, words, {norm: numbers(8)})
