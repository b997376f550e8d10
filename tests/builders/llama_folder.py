"""The tiny quantised Llamas of tests/data/llama, with a tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data" / "llama"
METHODS = ("fp8", "gptq", "nf4")


def add_tokenizer(path: Path, size: int, alphabet: list[str]) -> None:
    """A byte-level tokenizer of at most `size` tokens beside the one that ends a text."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["the cat sat on the mat and the hat"] * 4, trainer)
    made.add_special_tokens(["<|end|>"])
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')


def llama_folder(path: Path, method: str) -> Path:
    """Two layers of 128, quantised by `method`, one of METHODS; 64 tokens."""
    path.mkdir(parents=True)
    for file in (DATA / method).iterdir():
        if file.suffix != ".sha256":
            shutil.copy(file, path)
    add_tokenizer(path, 60, [])
    return path
