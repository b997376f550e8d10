"""The files of a tokenizer, out of key/values as they stand in a header."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anamnesis.names.splits import BEGINNING, SAME, SPLITS, WHOLE_WORDS, name_of, pre_tokenizer
from anamnesis.names.tokenizer import tokenizer_files
from anamnesis.readers.gguf_types import KeyValue

tokenizers = pytest.importorskip("tokenizers")

NORMAL, UNKNOWN, CONTROL, _, _, BYTE = range(1, 7)


def made(**keys: Any) -> tuple[Any, dict[str, Any], str]:
    """The tokenizer, its settings and the remarks; keys without a dot are `tokenizer.ggml.` ones.

    (Types of key/values say nothing here.)
    """
    values = {
        key.replace("__", ".") if "__" in key else f"tokenizer.ggml.{key}": KeyValue(0, value)
        for key, value in keys.items()
    }
    files, notes = tokenizer_files(values)
    tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    return tokenizer, json.loads(files["tokenizer_config.json"]), "\n".join(notes)


ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
BYTE_LEVEL: dict[str, Any] = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": [*ALPHABET, "<|end|>"],
    "token_type": [NORMAL] * 256 + [CONTROL],
    "merges": [],
}


def test_rows_are_told_by_their_own_documents() -> None:
    for name in SPLITS:
        found = pre_tokenizer(name, space=False)
        assert name_of(json.loads(found.__getstate__())) == name
    assert name_of({"type": "Whitespace"}) is None
    assert set(SAME.values()) <= SPLITS.keys()
    assert not SAME.keys() & SPLITS.keys()
    assert (WHOLE_WORDS | BEGINNING).issubset([*SPLITS, *SAME])


def test_ordinary_tokens_are_not_special() -> None:
    _, settings, _ = made(**BYTE_LEVEL, bos_token_id=1, eos_token_id=256, unknown_token_id=999)
    assert settings["eos_token"] == "<|end|>"
    assert not {"bos_token", "unk_token"} & settings.keys()


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, False),
        ({"add_bos_token": True}, True),
        ({"pre": "llama-bpe"}, True),
        ({"pre": "llama-bpe", "add_bos_token": False}, False),
        ({"pre": "qwen2"}, False),
    ],
)
def test_a_text_begins_as_in_llama_cpp(changes: dict[str, Any], first: bool) -> None:
    tokenizer, _, notes = made(**BYTE_LEVEL | {"bos_token_id": 256} | changes)
    assert (tokenizer.encode("a").ids[0] == 256) == first
    assert not notes


def test_unknown_pre_tokenisers_are_remarked() -> None:
    _, _, notes = made(**BYTE_LEVEL | {"pre": "new-one"})
    assert notes == "tokenizer.json: pre-tokeniser 'new-one' is not known; GPT-2's stands for it"


def test_chat_templates() -> None:
    _, settings, _ = made(**BYTE_LEVEL, tokenizer__chat_template="{{ a }}")
    assert settings["chat_template"] == "{{ a }}"
    _, settings, _ = made(
        **BYTE_LEVEL, tokenizer__chat_template="{{ a }}", tokenizer__chat_template__tool="{{ b }}"
    )
    assert settings["chat_template"] == [
        {"name": "default", "template": "{{ a }}"},
        {"name": "tool", "template": "{{ b }}"},
    ]


@pytest.mark.parametrize("lower", [True, False])
def test_wordpiece_keeps_case_where_the_file_says_so(lower: bool) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer, settings, _ = made(
        model="bert",
        tokens=[*special, "▁Ab", "▁ab", "c"],
        token_type=[CONTROL] * 5 + [NORMAL] * 3,
        bos_token_id=2,
        tokenizer__ggml__normalizer__lowercase=lower,
    )
    assert tokenizer.encode("Abc").tokens == ["[CLS]", "ab" if lower else "Ab", "##c", "[SEP]"]
    assert settings["do_lower_case"] == lower
    assert settings["cls_token"] == "[CLS]"
    assert "bos_token" not in settings


def test_pieces_with_their_merges() -> None:
    octets = [f"<0x{i:02X}>" for i in range(256)]
    tokens = ["<bos>", "<unk>", *octets, "▁", "a", "b", "▁a", "ab"]
    tokenizer, _, _ = made(
        model="gemma4",
        tokens=tokens,
        token_type=[CONTROL, UNKNOWN] + [BYTE] * 256 + [NORMAL] * 5,
        scores=[-1000.0] * len(tokens),
        merges=["▁ a", "a b"],
        bos_token_id=0,
        unknown_token_id=1,
    )
    assert tokenizer.encode("b abé").tokens == ["<bos>", "b", "▁a", "b", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("b abé").ids) == "b abé"


@pytest.mark.parametrize(
    "keys",
    [
        BYTE_LEVEL | {"merges": ["a missing"]},
        BYTE_LEVEL | {"merges": [5]},
        BYTE_LEVEL | {"token_type": 1},
        {"model": "t5", "tokens": ["a", "b"], "scores": [1.0]},
        {"model": "t5", "tokens": ["a", "b"], "scores": [1.0, 2.0], "unknown_token_id": 7},
        {"model": "t5", "tokens": ["a"], "precompiled_charsmap": [1], "unknown_token_id": 0},
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_noted(keys: dict[str, Any]) -> None:
    values = {f"tokenizer.ggml.{key}": KeyValue(0, value) for key, value in keys.items()}
    files, notes = tokenizer_files(values)
    assert "tokenizer.json" not in files
    assert "no tokenizer.json was written: the vocabulary contradicts itself: " in "\n".join(notes)


def test_wordpiece_without_bert_s_tokens_takes_those_of_the_file() -> None:
    """Those of a CamemBERT, which llama.cpp's converter writes as a BERT."""
    found, _, _ = made(
        model="bert",
        tokens=["<s>", "</s>", "<unk>", "▁a"],
        token_type=[CONTROL, CONTROL, CONTROL, NORMAL],
        bos_token_id=0,
        seperator_token_id=1,
        unknown_token_id=2,
    )
    assert found.encode("a b").tokens == ["<s>", "a", "<unk>", "</s>"]
