"""The processor's files of a vision tower are read by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from towers import model, numbers, write

import anamnesis

transformers = pytest.importorskip("transformers")
image = pytest.importorskip("PIL.Image")
pytest.importorskip("gguf")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

MEAN, STD = np.array([0.5, 0.25, 0.75]), np.array([0.25, 0.5, 0.125])


def test_an_image_becomes_patches_of_the_tower_s_size(tmp_path: Path) -> None:
    keys = {"image_mean": MEAN.tolist(), "image_std": STD.tolist()}
    source = model(tmp_path, "qwen2vl_merger", {"v.post_ln.weight": numbers(8)}, **keys)
    out = tmp_path / "out"
    anamnesis.convert(source, out, to="hf")
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    found = processor(images=[image.fromarray(np.full((64, 96, 3), 255, np.uint8))])
    assert np.asarray(found["image_grid_thw"]).tolist() == [[1, 16, 24]]  # patches of 4 x 4
    pixels = np.asarray(found["pixel_values"]).reshape(16 * 24, 3, -1)
    assert np.allclose(pixels, ((1 - MEAN) / STD)[None, :, None], atol=1e-6)


SPECIAL = ["<|endoftext|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b", "▁a", "▁ab"]
PIECES += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
WHITE = image.fromarray(np.full((64, 96, 3), 255, np.uint8))
NORMALISED = {"image_mean": MEAN.tolist(), "image_std": STD.tolist()}


def qwen(folder: Path) -> Path:
    """A folder of a Qwen2-VL with a vocabulary of bytes and three merges."""
    tokenizers = pytest.importorskip("tokenizers")
    words = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "he", "Ġt", "Ġthe"]
    vocabulary = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": words + SPECIAL,
        "merges": ["h e", "Ġ t", "Ġt he"],
        "token_type": [1] * len(words) + [3] * len(SPECIAL),
        "eos_token_id": len(words),
    }
    return made(folder, "qwen2vl", "qwen2vl_merger", vocabulary)


def gemma(folder: Path) -> Path:
    """A folder of a Gemma 3 with a vocabulary of SentencePiece's kind."""
    vocabulary = {
        "model": "llama",
        "pre": "default",
        "tokens": PIECES,
        "scores": [0.0] * 4 + [-5.0, -6.0, -7.0, -1.0, -2.0] + [0.0] * 3,
        "token_type": [3, 3, 3, 2] + [1] * 5 + [3] * 3,
        "padding_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "unknown_token_id": 3,
    }
    return made(folder, "gemma3", "gemma3", vocabulary)


def made(folder: Path, text: str, projector: str, vocabulary: dict[str, Any]) -> Path:
    """What two files are converted to, the text model's with a whole vocabulary."""
    tower = {"v.post_ln.weight": numbers(8)}
    clip = NORMALISED | {"attention.layer_norm_epsilon": 1e-6}
    model(folder, projector, tower, text, **clip)
    keys: dict[str, Any] = {f"{text}.embedding_length": 6, f"{text}.attention.head_count": 2}
    if text == "qwen2vl":
        keys["qwen2vl.rope.dimension_sections"] = [2, 3, 3, 0]
    keys |= {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    source = write(folder / "model.gguf", text, keys, {"output_norm.weight": numbers(8)})
    anamnesis.convert(source, folder / "out", to="hf")
    return folder / "out"


def test_the_tokenizer_of_a_folder_with_a_tower(tmp_path: Path) -> None:
    for name, make, text, words in (
        ("qwen", qwen, "he the<|image_pad|>", ["he", "Ġthe", "<|image_pad|>"]),
        ("gemma", gemma, "ab<image_soft_token>", ["<bos>", "▁ab", "<image_soft_token>"]),
    ):
        (tmp_path / name).mkdir()
        tokenizer = transformers.AutoTokenizer.from_pretrained(make(tmp_path / name))
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == words


def test_gemma_3_s_processor_takes_text_with_an_image(tmp_path: Path) -> None:
    processor = transformers.AutoProcessor.from_pretrained(gemma(tmp_path))
    assert type(processor).__name__ == "Gemma3Processor"
    found = processor(images=[WHITE], text=["<start_of_image>a"], return_tensors="np")
    tokens = processor.tokenizer.convert_ids_to_tokens(np.asarray(found["input_ids"])[0])
    begin, end = tokens.index("<start_of_image>"), tokens.index("<end_of_image>")
    # 4 x 4 patches of 4 x 4 pixels; sixteen of them become one token.
    assert tokens[begin + 1 : end] == ["<image_soft_token>"]
    pixels = np.asarray(found["pixel_values"])
    assert pixels.shape == (1, 3, 16, 16)
    assert np.allclose(pixels, ((1 - MEAN) / STD)[None, :, None, None], atol=1e-6)


def test_qwen2_vl_s_processor_takes_text_with_an_image(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="its processor of videos needs it")
    processor = transformers.AutoProcessor.from_pretrained(qwen(tmp_path))
    assert type(processor).__name__ == "Qwen2VLProcessor"
    found = processor(images=[WHITE], text=["<|image_pad|>he"], return_tensors="np")
    tokens = processor.tokenizer.convert_ids_to_tokens(np.asarray(found["input_ids"])[0])
    assert tokens == ["<|image_pad|>"] * (16 * 24 // 4) + ["he"]  # 2 x 2 patches a token
