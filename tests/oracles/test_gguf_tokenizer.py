"""`tokenizer.json` out of a GGUF against llama.cpp's own tokenizer of that file.

Vocabularies are trained here by the `tokenizers` package on a page of many scripts, and written
with the `gguf` package; ids of the page have to be those that llama.cpp gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_files import finish
from llama_cpp_module import llama_cpp_or_skip

import anamnesis
from anamnesis.names.splits import SAME, SPLITS

gguf = pytest.importorskip("gguf")
llama_cpp = llama_cpp_or_skip()
tokenizers = pytest.importorskip("tokenizers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

PAGE = (Path(__file__).resolve().parents[1] / "data" / "scripts.txt").read_text()
NORMAL, UNKNOWN, CONTROL, _, _, BYTE = range(1, 7)


def file_of(path: Path, keys: dict[str, Any]) -> Path:
    """A GGUF of a vocabulary, with one tensor."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in {
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        kinds |= {str: writer.add_string, list: writer.add_array}  # type: ignore[dict-item]
        kinds[type(value)](key, value)  # type: ignore[arg-type]
    import numpy as np

    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    finish(writer)
    return path


def of_llama_cpp(path: Path, text: str) -> list[int]:
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return list(model.tokenize(text.encode(), add_bos=True, special=False))


def of_folder(path: Path, text: str) -> list[int]:
    out = path.parent / "out"
    anamnesis.convert(path, out, to="hf")
    made = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    ids = made.encode(text).ids
    return list(ids)


@pytest.fixture(scope="module")
def byte_level() -> dict[str, Any]:
    """Tokens and merges of GPT-2's kind, learnt from pieces that cross every pre-tokeniser's."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = PAGE.split("\n")
    made.train_from_iterator(
        [*(line[i:] for line in lines for i in range(0, 40, 3)), PAGE], trainer
    )
    model = json.loads(made.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "model": "gpt2",
        "tokens": [*words, "<|end|>"],
        "token_type": [NORMAL] * len(words) + [CONTROL],
        "merges": merges,
        "bos_token_id": len(words),
        "eos_token_id": len(words),
    }


# Where llama.cpp's engine splits other scripts otherwise than the models' own expressions do: it
# takes marks for no letters, \d and \b for ASCII's, and Falcon's digits before they are bytes.
LATIN_ONLY = frozenset(
    "cohere2moe deepseek-coder deepseek-llm falcon gpt-4o kanana2 kimi-k2 llama4 minimax-m2 "
    "superbpe talkie tekken tiny_aya".split()
)


@pytest.mark.parametrize("name", sorted([*SPLITS, *SAME]))
def test_pre_tokenisers(name: str, byte_level: dict[str, Any], tmp_path: Path) -> None:
    path = file_of(tmp_path / "m.gguf", {**byte_level, "pre": name})
    text = "\n".join(PAGE.split("\n")[:5]) if name in LATIN_ONLY else PAGE
    assert of_folder(path, text) == of_llama_cpp(path, text)


def spoken(pieces: list[str], kind: str, unknown: int) -> dict[str, Any]:
    """A vocabulary of SentencePiece: its special tokens, its bytes, and pieces by their ranks."""
    special = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    octets = [f"<0x{i:02X}>" for i in range(256)]
    tokens = [*special, *octets, *pieces]
    return {
        "model": kind,
        "pre": "default",
        "tokens": tokens,
        "token_type": [*special.values(), *[BYTE] * 256, *[NORMAL] * len(pieces)],
        "scores": [*[0.0] * 259, *(-float(i) for i in range(len(pieces)))],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": unknown,
        "add_bos_token": True,
    }


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_and_bytes(prefix: bool, tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, show_progress=False)
    made.train_from_iterator(PAGE.split("\n"), trainer)
    vocab = made.get_vocab()
    words = sorted(vocab, key=lambda word: (len(word) == 1, vocab[word]))
    keys = spoken(words, "llama", 0) | {"add_space_prefix": prefix}
    path = file_of(tmp_path / "m.gguf", keys)
    expected = of_llama_cpp(path, PAGE)
    assert of_folder(path, PAGE) == expected
    anamnesis.convert(tmp_path / "out", tmp_path / "back.gguf", to="gguf")
    assert of_llama_cpp(tmp_path / "back.gguf", PAGE) == expected


def test_unigram(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=600, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]
    )
    made.train_from_iterator(PAGE.split("\n"), trainer)
    model = json.loads(made.to_str())["model"]["vocab"]
    words = [word for word, _ in model if word != "<unk>"]
    keys = spoken([], "t5", 2) | {
        "tokens": ["<pad>", "</s>", "<unk>", *words],
        "scores": [0.0, 0.0, 0.0, *(score for word, score in model if word != "<unk>")],
        "token_type": [CONTROL, CONTROL, UNKNOWN, *[NORMAL] * len(words)],
        "eos_token_id": 1,
        "add_bos_token": False,
        "add_eos_token": True,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    path = file_of(tmp_path / "m.gguf", keys)
    for line in filter(str.strip, PAGE.split("\n")):
        text = " ".join(line.split())
        assert of_folder(path, text) == of_llama_cpp(path, text)


def test_wordpiece(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=700, show_progress=False)
    made.train_from_iterator(PAGE.split("\n"), trainer)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted(made.get_vocab(), key=made.get_vocab().get)
    keys = {
        "model": "bert",
        "pre": "default",
        "tokens": [*special, *(w[2:] if w.startswith("##") else f"▁{w}" for w in words)],
        "token_type": [CONTROL] * 5 + [NORMAL] * len(words),
        "bos_token_id": 2,
        "eos_token_id": 3,
        "seperator_token_id": 3,
        "unknown_token_id": 1,
        "padding_token_id": 0,
        "mask_token_id": 4,
    }
    path = file_of(tmp_path / "m.gguf", keys)
    for line in filter(str.strip, PAGE.split("\n")[:6]):
        assert of_folder(path, line) == of_llama_cpp(path, line)
