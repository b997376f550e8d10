"""Vocabularies of SentencePiece: out of a `tokenizer.model`, or of a `tokenizer.json` made of one.

The messages are `ModelProto`, `SentencePiece` and `NormalizerSpec` of
https://github.com/google/sentencepiece (src/sentencepiece_model.proto). Types of tokens are those
of llama.cpp (`llama_token_type`), whose numbers are SentencePiece's.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_UINT8, _UINT32, _INT32, _FLOAT32, _BOOL = 0, 4, 5, 6, 7
_PLAMO = re.compile(r"<\|plamo:.*\|>", re.DOTALL)
_PLAMO_IDS = {
    "bos": "bos",
    "eos": "eos",
    "pad": "padding",
    "sep": "seperator",
    "unk": "unknown",
}
_ADDED_SCORE, _PAD_SCORE = -1000.0, -10000.0
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL)

Token = Mapping[str, Any]  # `content` and `special`, as in tokenizer.json's `added_tokens`


@dataclass
class Tokens:
    """Texts, types and scores by number, and keys of special tokens with their ids."""

    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    def append(self, text: str, kind: int, score: float = 0.0) -> None:
        """One more."""
        self.texts.append(text)
        self.types.append(kind)
        self.scores.append(score)

    def resize(self, size: int) -> None:
        """As many as the embeddings have rows: the rest is cut off, or unused ones are added."""
        for values in (self.texts, self.types, self.scores):
            del values[size:]
        for number in range(len(self.texts), size):
            self.append(f"[PAD{number}]", UNUSED, _PAD_SCORE)

    def set(self, number: int, text: str, kind: int) -> None:
        """Put an added token where it belongs, unless it is beyond the embeddings."""
        if 0 <= number < len(self.texts):
            self.texts[number], self.types[number] = text, kind
            self.scores[number] = _ADDED_SCORE

    def values(self, kind: str, pre: str, *, scored: bool = True) -> dict[str, KeyValue]:
        """The keys of a vocabulary of llama.cpp's `kind`."""
        found = {
            "tokenizer.ggml.model": KeyValue(STRING, kind),
            "tokenizer.ggml.pre": KeyValue(STRING, pre),
            "tokenizer.ggml.tokens": KeyValue(ARRAY, self.texts, STRING),
        }
        if scored:
            found["tokenizer.ggml.scores"] = KeyValue(ARRAY, self.scores, _FLOAT32)
        found["tokenizer.ggml.token_type"] = KeyValue(ARRAY, self.types, _INT32)
        return found | {key: KeyValue(_UINT32, number) for key, number in self.ids.items()}


def looks_special(text: str) -> bool:
    """Whether a token is a control token, though its tokenizer does not say so.

    (`does_token_look_special` of llama.cpp's conversion/base.py.)
    """
    return _SPECIAL.fullmatch(text) is not None


def of_model(path: str, data: bytes) -> tuple[Tokens, dict[str, KeyValue]]:
    """The pieces of a `tokenizer.model`, and how it normalises text.

    Raises FormatError for what is no such file.
    """
    tokens, settings, trainer = Tokens(), b"", b""
    for number, value in fields(path, data):
        if number == 3 and isinstance(value, bytes):
            settings = value
        if number == 2 and isinstance(value, bytes):
            trainer = value
        if number != 1 or not isinstance(value, bytes):
            continue
        text, score, kind = "", 0.0, NORMAL
        for inner, found in fields(path, value):
            if inner == 1 and isinstance(found, bytes):
                text = found.decode(errors="replace")
            elif inner == 2 and isinstance(found, bytes) and len(found) == 4:
                score = struct.unpack("<f", found)[0]
            elif inner == 3 and isinstance(found, int):
                kind = found
        tokens.append(text, NORMAL if kind == USER_DEFINED else kind, score)
    tokens.ids = _special(path, trainer, len(tokens.texts))
    return tokens, _normaliser(path, settings)


def _special(path: str, data: bytes, count: int) -> dict[str, int]:
    """Ids of special tokens, those that are not what llama.cpp takes (`TrainerSpec`)."""
    found = dict(fields(path, data))
    ids = {name: found.get(number, usual) for name, number, usual in _TRAINED}
    return {
        f"tokenizer.ggml.{name}_token_id": number
        for name, _, usual in _TRAINED
        if isinstance(number := ids[name], int) and number != usual and number < count
    }


# Special tokens, the fields that have their ids, and those of SentencePiece and llama.cpp.
_TRAINED = (("bos", 41, 1), ("eos", 42, 2), ("unknown", 40, 0))


def _normaliser(path: str, data: bytes) -> dict[str, KeyValue]:
    found = dict(fields(path, data))
    values = {
        "tokenizer.ggml.add_space_prefix": KeyValue(_BOOL, bool(found.get(3, 1))),
        "tokenizer.ggml.remove_extra_whitespaces": KeyValue(_BOOL, bool(found.get(4, 1))),
    }
    return values | _charsmap(found.get(2))


def _charsmap(data: Any) -> dict[str, KeyValue]:
    """Characters and what stands for them, compiled to a trie by SentencePiece."""
    if not isinstance(data, bytes) or not data:
        return {}
    return {"tokenizer.ggml.precompiled_charsmap": KeyValue(ARRAY, list(data), _UINT8)}


def of_merges(document: Mapping[str, Any], added: Mapping[int, Token]) -> Tokens:
    """The tokens of a BPE model with byte fallback; scores are the ranks of their merges.

    SentencePiece merges the pair whose result has the best score, so that any scores in the order
    of the merges mean the same. (llama.cpp's converter gives all of them one score.)
    """
    model = document["model"]
    ranks: dict[str, float] = {}
    for merge in model.get("merges") or ():
        pair = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), -float(len(ranks)))
    least = -float(len(ranks))
    by_number = {number: text for text, number in model["vocab"].items()}
    tokens = Tokens()
    for number in range(max([*by_number, *added], default=-1) + 1):
        text = by_number.get(number)
        if text is None:
            tokens.append(f"[PAD{number}]", UNUSED, _PAD_SCORE)
            continue
        kind = BYTE if BYTE_TOKEN.fullmatch(text) else NORMAL
        kind = UNKNOWN if text == model.get("unk_token") else kind
        tokens.append(text, kind, ranks.get(text, least))
    for number, token in added.items():
        if tokens.types[number] != UNKNOWN:
            tokens.set(number, *as_added(token))
    return tokens


def of_unigram(
    document: Mapping[str, Any], added: Mapping[int, Token]
) -> tuple[Tokens, dict[str, KeyValue]]:
    """The tokens of a unigram model in a `tokenizer.json`, and how it normalises text."""
    import base64

    model = document["model"]
    tokens = Tokens()
    for number, (text, score) in enumerate(model["vocab"]):
        kind = CONTROL if added.get(number, {}).get("special") else NORMAL
        tokens.append(text, UNKNOWN if number == model.get("unk_id") else kind, float(score))
    before = steps(document.get("normalizer"), "normalizers")
    mapped = next((s["precompiled_charsmap"] for s in before if s.get("type") == "Precompiled"), "")
    prefix = KeyValue(_BOOL, prefixes_space(document))
    trims = KeyValue(_BOOL, any(s.get("type") == "Strip" for s in before))
    return tokens, {
        "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.remove_extra_whitespaces": trims,
    } | _charsmap(base64.b64decode(mapped))


def of_lines(
    data: bytes, size: int, settings: Mapping[str, Any], *, chat: bool
) -> dict[str, KeyValue]:
    """PLaMo's `tokenizer.jsonl`, a list `[text, score, type, ...]` a line, and special tokens."""
    import json

    tokens = Tokens()
    for line in data.decode().split("\n"):
        if line.strip():
            found = [*json.loads(line), "NORMAL"]
            text, score, kind = str(found[0]), float(found[1]), str(found[2])
            control = kind == "CONTROL" or _PLAMO.fullmatch(text)
            known = {"UNKNOWN": UNKNOWN, "BYTE": BYTE}
            tokens.append(text, known.get(kind, CONTROL if control else NORMAL), score)
    for number in range(1, size - len(tokens.texts) + 1):
        tokens.append(f"[PAD{number}]", UNUSED, _ADDED_SCORE)
    values = tokens.values("plamo2", "default")
    for name, key in _PLAMO_IDS.items():
        if settings.get(f"{name}_token") is not None:
            number = tokens.texts.index(settings[f"{name}_token"])
            values[f"tokenizer.ggml.{key}_token_id"] = KeyValue(_UINT32, number)
    values["tokenizer.ggml.add_space_prefix"] = KeyValue(_BOOL, False)
    if chat and isinstance(settings.get("chat_template"), str):
        values["tokenizer.chat_template"] = KeyValue(STRING, settings["chat_template"])
    return values


def prefixes_space(document: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` puts a space before a text."""
    if any(s.get("type") == "Prepend" for s in steps(document.get("normalizer"), "normalizers")):
        return True
    return any(
        s.get("type") == "Metaspace"
        and s.get("prepend_scheme", "always") != "never"
        and s.get("add_prefix_space", True)
        for s in steps(document.get("pre_tokenizer"), "pretokenizers")
    )


def steps(document: Any, key: str) -> Sequence[Mapping[str, Any]]:
    """A step of a `tokenizer.json`, or the steps of a sequence, which lie under `key`."""
    return (document.get(key) or [document]) if isinstance(document, dict) else []


def as_added(token: Token) -> tuple[str, int]:
    """Text and type of an added token; llama.cpp looks for those that users see with spaces."""
    text = str(token["content"])
    if token.get("special") or looks_special(text):
        return text, CONTROL
    return text.replace("▁", " "), USER_DEFINED


def fields(path: str, data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers of varints, bytes of all others.

    https://protobuf.dev/programming-guides/encoding
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while at < len(data) and shift < _VARINT_BITS:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise FormatError(f"{path}: byte {at:,}: a number is cut off")

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length = varint()
        if length is None or length > len(data) - at:
            raise FormatError(f"{path}: byte {at:,}: a field of wire type {kind} is cut off")
        yield key >> 3, data[at : at + length]
        at += length


_VARINT_BITS = 64
