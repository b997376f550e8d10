"""The key/values of a GGUF's tokenizer, out of a model folder's files.

Byte-level BPE comes from `tokenizer.json`, SentencePiece BPE from `tokenizer.model`; special tokens
and chat templates as the `gguf` package (extra `gguf`) finds them. Types of tokens are those of
llama.cpp (`llama_token_type`), whose numbers are SentencePiece's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits, MiB
from anamnesis.names.tokenizer import DIGITS, SPLITS
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue
from anamnesis.readers.strict_json import loads

_UINT32, _INT32, _FLOAT32, _BOOL = 4, 5, 6, 7
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_MOST = 256 * MiB
_PRE = "tokenizer.ggml.pre"


def vocabulary(
    folder: LocalFolder, config: Mapping[str, Any], given: Mapping[str, Any], limits: Limits
) -> dict[str, KeyValue]:
    """All `tokenizer.*` keys; `given` are the caller's own, which may name the pre-tokeniser.

    Raises UnsupportedError for tokenizers that are not read, FormatError for broken files.
    """
    text = config.get("text_config")
    size = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else 0)
    size = int(size or 0)
    model = _read(folder, "tokenizer.model", limits)
    if model is not None:
        settings = _object(folder, "tokenizer_config.json", limits)
        added = {
            int(number): token
            for number, token in (settings.get("added_tokens_decoder") or {}).items()
        }
        values = _sentencepiece(folder.join("tokenizer.model"), model, size, added)
        if isinstance(settings.get("add_prefix_space"), bool):
            space = KeyValue(_BOOL, settings["add_prefix_space"])
            values["tokenizer.ggml.add_space_prefix"] = space
    else:
        document = _object(folder, "tokenizer.json", limits)
        values = _byte_level(folder.path, document, size, given.get(_PRE))
    return values | _special(folder.path, len(values["tokenizer.ggml.tokens"].value))


def _read(folder: LocalFolder, name: str, limits: Limits) -> bytes | None:
    file = folder.open(name)
    if file is None:
        return None
    with file:
        limits.alloc(file.size, f"{folder.path}/{name}", _MOST)
        return file.read(0, file.size)


def _object(folder: LocalFolder, name: str, limits: Limits) -> dict[str, Any]:
    data = _read(folder, name, limits)
    document = {} if data is None else loads(data, f"{folder.path}/{name}", limits)
    return document if isinstance(document, dict) else {}


def _lists(
    kind: str, pre: str, tokens: list[str], types: list[int], scores: list[float] | None
) -> dict[str, KeyValue]:
    values = {
        "tokenizer.ggml.model": KeyValue(STRING, kind),
        _PRE: KeyValue(STRING, pre),
        "tokenizer.ggml.tokens": KeyValue(ARRAY, tokens, STRING),
    }
    if scores is not None:
        values["tokenizer.ggml.scores"] = KeyValue(ARRAY, scores, _FLOAT32)
    values["tokenizer.ggml.token_type"] = KeyValue(ARRAY, types, _INT32)
    return values


def _byte_level(
    where: str, document: Mapping[str, Any], size: int, given: object
) -> dict[str, KeyValue]:
    model = document.get("model") or {}
    vocab = model.get("vocab")
    decoder = (document.get("decoder") or {}).get("type")
    if model.get("type") != "BPE" or not isinstance(vocab, dict) or decoder != "ByteLevel":
        raise UnsupportedError(
            f"{where}: tokenizer.json: {model.get('type') or 'no'!r:.50} model; a GGUF's "
            "vocabulary is made of byte-level BPE there, or of a tokenizer.model"
        )
    pre = str(given) if given else _pre_tokenizer(where, document.get("pre_tokenizer") or {})
    added = {t["id"]: t for t in document.get("added_tokens", ())}
    by_id = {number: token for token, number in vocab.items()}
    by_id |= {number: token["content"] for number, token in added.items()}
    tokens, types = [], []
    for number in range(max(size, max(by_id, default=-1) + 1)):
        token = by_id.get(number)
        kind = _NORMAL if token is not None else _UNUSED
        if number in added:
            kind = _CONTROL if added[number].get("special") else _USER_DEFINED
        tokens.append(f"[PAD{number}]" if token is None else token)
        types.append(kind)
    values = _lists("gpt2", pre, tokens, types, None)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", ())]
    values["tokenizer.ggml.merges"] = KeyValue(ARRAY, merges, STRING)
    return values


def _pre_tokenizer(where: str, document: Mapping[str, Any]) -> str:
    """llama.cpp's name of a pre-tokeniser; UnsupportedError names what can be done about it."""
    steps = document.get("pretokenizers") or [document]
    kinds = [step.get("type") for step in steps]
    split = next((s["pattern"].get("Regex") for s in steps if s.get("type") == "Split"), None)
    if kinds == ["Digits", "ByteLevel"]:
        return DIGITS[-2]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    for name in ("llama-bpe", "qwen2", "gpt-4o"):
        if split == SPLITS[name] and kinds == ["Split", "ByteLevel"]:
            return name
    raise UnsupportedError(
        f"{where}: tokenizer.json: its pre-tokeniser ({', '.join(map(str, kinds))}) is not known; "
        f"name llama.cpp's with --gguf-kv {_PRE}=NAME"
    )


def _special(path: str, count: int) -> dict[str, KeyValue]:
    """Ids of special tokens, whether they are added, and chat templates."""
    try:
        from gguf import SpecialVocab
    except ImportError as error:
        raise UnsupportedError(
            "special tokens of a GGUF need the `gguf` package: pip install anamnesis[gguf]"
        ) from error
    found = SpecialVocab(path, load_merges=False, n_vocab=count)
    values: dict[str, KeyValue] = {}
    for name, number in found.special_token_ids.items():
        key = {"unk": "unknown", "pad": "padding", "sep": "seperator"}.get(name, name)
        values[f"tokenizer.ggml.{key}_token_id"] = KeyValue(_UINT32, int(number))
    for name, flag in found.add_special_token.items():
        values[f"tokenizer.ggml.add_{name}_token"] = KeyValue(_BOOL, bool(flag))
    template = found.chat_template
    if isinstance(template, str):
        values["tokenizer.chat_template"] = KeyValue(STRING, template)
    return values


def _sentencepiece(
    path: str, data: bytes, size: int, added: Mapping[int, Mapping[str, Any]]
) -> dict[str, KeyValue]:
    tokens, scores, types = [], [], []
    for field, value in _fields(path, data):
        if field != 1 or not isinstance(value, bytes):
            continue
        piece, score, kind = "", 0.0, _NORMAL
        for inner, found in _fields(path, value):
            if inner == 1 and isinstance(found, bytes):
                piece = found.decode(errors="replace")
            elif inner == 2 and isinstance(found, bytes):
                score = struct.unpack("<f", found)[0]
            elif inner == 3 and isinstance(found, int):
                kind = found
        tokens.append(piece)
        scores.append(score)
        types.append(_NORMAL if kind == _USER_DEFINED else kind)
    for number in range(len(tokens), size):
        tokens.append(f"[PAD{number}]")
        scores.append(-10000.0)
        types.append(_UNUSED)
    for number, token in added.items():
        if number < len(tokens):
            special = bool(token.get("special"))
            text = str(token["content"])
            tokens[number] = text if special else text.replace("▁", " ")
            scores[number], types[number] = -1000.0, _CONTROL if special else _USER_DEFINED
    return _lists("llama", "default", tokens, types, scores)


def _fields(path: str, data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers of varints, bytes of all others.

    https://protobuf.dev/programming-guides/encoding; the messages are `ModelProto` and
    `SentencePiece` of https://github.com/google/sentencepiece.
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
