"""Vocabularies of single classes: Gemma 4's, XLM-RoBERTa's, Kimi's."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.names.gguf_config import keys_of
from anamnesis.names.vocabulary import vocabulary
from anamnesis.readers.folder import LocalFolder

pytest.importorskip("gguf")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def values(folder: Path, name: str, size: int) -> dict[str, Any]:
    """What a folder's tokenizer makes of a class's key/values, without their prefix."""
    found = vocabulary(LocalFolder(str(folder)), size, keys_of(name, ""), {}, Limits())
    return {key.removeprefix("tokenizer.ggml."): value.value for key, value in found.items()}


def added(number: int, text: str, *, special: bool) -> dict[str, Any]:
    return {"id": number, "content": text, "special": special}


def test_gemma4_has_merges_and_no_scores(tmp_path: Path) -> None:
    vocab = ["<pad>", "<eos>", "<|channel>", "<|turn>", "<0x41>", "▁", "a", "▁a"]
    document = {
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": {text: number for number, text in enumerate(vocab)},
            "merges": [["▁", "a"]],
        },
        "added_tokens": [
            added(0, "<pad>", special=True),
            added(1, "<eos>", special=True),
            added(2, "<|channel>", special=True),
            added(3, "<|turn>", special=True),
            added(8, "<mask>", special=True),
            added(9, "<extra>", special=False),
        ],
    }
    settings = {"eos_token": "<eos>", "pad_token": "<pad>", "soc_token": "<|channel>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = values(tmp_path, "Gemma4ForCausalLM", 11)
    assert found["model"] == "gemma4"
    assert "pre" not in found
    assert found["tokens"] == [*vocab, "<mask>", "<extra>", "[PAD10]"]
    assert found["token_type"] == [
        *(CONTROL, CONTROL, USER_DEFINED, NORMAL, BYTE, NORMAL, NORMAL, NORMAL),
        *(CONTROL, USER_DEFINED, UNUSED),
    ]
    assert found["scores"] == [-1000.0] * 10 + [-10000.0]
    assert found["merges"] == ["▁ a"]


def test_fairseq_order_out_of_a_tokenizer_json(tmp_path: Path) -> None:
    texts = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "<mask>"]
    document = {
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [[text, -float(number)] for number, text in enumerate(texts)],
        },
        "added_tokens": [added(n, texts[n], special=True) for n in (0, 1, 2, 3, 6)]
        + [added(5, "b", special=False)],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    found = values(tmp_path, "XLMRobertaModel", 9)
    assert found["model"] == "t5"
    assert found["tokens"] == [*texts, "[PAD7]", "[PAD8]"]
    assert found["token_type"] == [
        *(CONTROL, CONTROL, CONTROL, UNKNOWN, NORMAL, USER_DEFINED, CONTROL, UNUSED, UNUSED)
    ]
    assert found["add_space_prefix"] is True
    assert found["remove_extra_whitespaces"] is False


def field(number: int, data: bytes) -> bytes:
    """A field of bytes in a protocol buffer."""
    return bytes([number << 3 | 2, len(data)]) + data


def test_fairseq_order_out_of_a_sentencepiece_model(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [("▁a", -1.5, NORMAL), ("b", -2.5, NORMAL)]
    data = b"".join(
        field(
            1,
            field(1, text.encode())
            + b"\x15"
            + struct.pack("<f", score)
            + (b"\x18" + bytes([kind])),
        )
        for text, score, kind in pieces
    )
    (tmp_path / "sentencepiece.bpe.model").write_bytes(data)
    found = values(tmp_path, "XLMRobertaModel", 8)
    assert found["tokens"] == ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "[PAD5]", "[PAD6]"]
    assert found["token_type"] == [
        *(CONTROL, CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL, UNUSED, UNUSED)
    ]
    assert found["scores"] == [0.0, 0.0, 0.0, 0.0, -1.5, -2.5, -10000.0, -10000.0]


RANKS = [bytes((byte,)) for byte in range(256)] + [b" t", b"he", b" the", "é".encode(), b"abc"]


def kimi(folder: Path, ranks: list[bytes] = RANKS, kind: str = "TikTokenTokenizer") -> Path:
    """A folder with a vocabulary in tiktoken's file."""
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(ranks)]
    (folder / "tiktoken.model").write_bytes(b"\n".join(lines))
    named = {"261": {"content": "[BOS]"}, "263": {"content": "<think>", "special": False}}
    settings = {"tokenizer_class": kind, "added_tokens_decoder": named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_kimi_s_merges_follow_from_the_ranks(tmp_path: Path) -> None:
    found = values(kimi(tmp_path), "DeepseekV3ForCausalLM", 520)
    assert (found["model"], found["pre"]) == ("gpt2", "kimi-k2")
    assert found["tokens"][256:261] == ["Ġt", "he", "Ġthe", "Ã©", "abc"]
    assert found["merges"] == ["Ġ t", "h e", "Ġt he", "Ã ©"]  # "abc" is of no two tokens
    assert found["tokens"][261:264] == ["[BOS]", "<|reserved_token_262|>", "<think>"]
    assert found["tokens"][516:] == ["<|reserved_token_516|>", "[PAD517]", "[PAD518]", "[PAD519]"]
    kinds = [NORMAL] * 261 + [CONTROL] * 256 + [UNUSED] * 3
    assert found["token_type"] == kinds


def test_a_vocabulary_of_ranks_that_is_broken_or_another_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="'QWenTokenizer' are in its own code"):
        values(kimi(tmp_path, kind="QWenTokenizer"), "DeepseekV3ForCausalLM", 520)
    (kimi(tmp_path) / "tiktoken.model").write_bytes(b"IQ== 0\n?? 1")
    with pytest.raises(FormatError, match="line 2: found b'"):
        values(tmp_path, "DeepseekV3ForCausalLM", 520)
    (tmp_path / "tiktoken.model").write_bytes(b"IQ== 0\nIg== 2")
    with pytest.raises(FormatError, match="ranks that are not those from 0 to 1"):
        values(tmp_path, "DeepseekV3ForCausalLM", 520)
