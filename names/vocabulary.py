"""The key/values of a GGUF's tokenizer, out of a model folder's files.

What SentencePiece made is in `names.pieces`, tiktoken's in `names.tiktoken`; byte-level BPE and
WordPiece come from `tokenizer.json`. Special tokens and chat templates are as the `gguf` package
(extra `gguf`) finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits, MiB
from anamnesis.names import pieces, tiktoken
from anamnesis.names.keys import Keys
from anamnesis.names.pieces import (
    BYTE,
    BYTE_TOKEN,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Token,
    Tokens,
)
from anamnesis.names.splits import name_of
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue
from anamnesis.readers.strict_json import loads
from anamnesis.words import extra

_UINT32, _BOOL = 4, 7
_MOST = 256 * MiB
_PRE = "tokenizer.ggml.pre"
_NORMALISERS = ("BertNormalizer", "Lowercase", "StripAccents")
_PLAMO = "tokenizer.jsonl"
_FAIRSEQ = "sentencepiece.bpe.model"
_TRIMS = "tokenizer.ggml.remove_extra_whitespaces"
_MODELS = ("tokenizer.model", "spiece.model")
_SCORE = -1000.0  # of all tokens of Gemma 4
# What parsers of Gemma 4's answers have to see.
_VISIBLE = (
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
)
# How the `gguf` package names tokens, where a file's keys do otherwise.
_IDS = {"unk": "unknown", "pad": "padding", "sep": "seperator"}


def vocabulary(
    folder: LocalFolder, size: int, keys: Keys, given: Mapping[str, Any], limits: Limits
) -> dict[str, KeyValue]:
    """All `tokenizer.*` keys of a model whose embeddings have `size` rows.

    `given` are the caller's own, which may name the pre-tokeniser.

    Raises UnsupportedError for tokenizers that are not read, FormatError for broken files.
    """
    try:
        values = _of_folder(folder, size, keys, given, limits)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder.path}: its tokenizer's files are broken: {error!r}") from error
    tokens = values["tokenizer.ggml.tokens"].value
    if keys.vocabulary.startswith("plamo"):
        end = {f"tokenizer.ggml.{k}_token_id": KeyValue(_UINT32, n) for k, n in keys.tokens.items()}
        return values | end
    return values | _normaliser(folder, limits) | _special(folder.here, tokens, keys)


def _of_folder(
    folder: LocalFolder, size: int, keys: Keys, given: Mapping[str, Any], limits: Limits
) -> dict[str, KeyValue]:
    settings = read_object(folder, "tokenizer_config.json", limits)
    document = read_object(folder, "tokenizer.json", limits)
    added = {int(token["id"]): token for token in document.get("added_tokens") or ()}
    if keys.vocabulary.startswith("plamo"):
        data = _read(folder, _PLAMO, limits)
        if data is None:
            raise UnsupportedError(f"{folder.path}: no {_PLAMO}, which PLaMo's vocabulary is in")
        return pieces.of_lines(data, size, settings, chat=keys.vocabulary == "plamo-chat")
    if keys.vocabulary == "listed":
        return _listed(document, size, added)
    if keys.vocabulary == "gemma4" and document:
        return _of_gemma4(document, settings, size, added)
    if keys.vocabulary == "fairseq":
        found = _of_fairseq(folder, document, settings, size, limits)
        if found is not None:
            return found
    for name in _MODELS:
        data = _read(folder, name, limits)
        if data is not None:
            named = {int(n): t for n, t in (settings.get("added_tokens_decoder") or {}).items()}
            texts = read_object(folder, "added_tokens.json", limits)
            return _sentencepiece(folder.join(name), data, size, keys, (texts, named, added))
    data = None if document else _read(folder, tiktoken.FILE, limits)
    if data is not None:
        path = folder.join(tiktoken.FILE)
        return tiktoken.of_ranks(path, data, size, settings, given.get(_PRE))
    model = document.get("model") or {}
    kind, decoder = model.get("type"), (document.get("decoder") or {}).get("type")
    if kind == "BPE" and decoder == "ByteLevel":
        return _byte_level(folder.path, document, size, added, given.get(_PRE))
    if kind == "BPE" and model.get("byte_fallback"):
        tokens = pieces.of_merges(document, added)
        tokens.resize(size or len(tokens.texts))
        space = KeyValue(_BOOL, pieces.prefixes_space(document))
        return tokens.values("llama", "default") | {"tokenizer.ggml.add_space_prefix": space}
    if kind == "Unigram":
        tokens, normaliser = pieces.of_unigram(document, added)
        tokens.resize(size or len(tokens.texts))
        return tokens.values("t5", "default") | normaliser
    if kind == "WordPiece":
        return _wordpiece(document, size, added)
    if not document:
        raise UnsupportedError(
            f"{folder.path}: no tokenizer in the folder (tokenizer.json, tokenizer.model or "
            "tiktoken.model), which a GGUF's vocabulary is made of; --names stored writes without"
        )
    raise UnsupportedError(
        f"{folder.path}: tokenizer.json: {kind or 'no'!r:.50} model; a GGUF's vocabulary is made "
        "of BPE, a unigram model or WordPiece there, or of a tokenizer.model"
    )


def _read(folder: LocalFolder, name: str, limits: Limits) -> bytes | None:
    file = folder.open(name)
    if file is None:
        return None
    with file:
        limits.alloc(file.size, f"{folder.path}/{name}", _MOST)
        return file.read(0, file.size)


def read_object(folder: LocalFolder, name: str, limits: Limits) -> dict[str, Any]:
    """The object in a JSON file of a folder; empty where there is none."""
    data = _read(folder, name, limits)
    document = {} if data is None else loads(data, f"{folder.path}/{name}", limits)
    return document if isinstance(document, dict) else {}


def _sentencepiece(
    path: str,
    data: bytes,
    size: int,
    keys: Keys,
    added: tuple[Mapping[str, int], Mapping[int, Token], Mapping[int, Token]],
) -> dict[str, KeyValue]:
    """`added` are the tokens of added_tokens.json, tokenizer_config.json and tokenizer.json."""
    texts, named, more = added
    tokens, normaliser = pieces.of_model(path, data)
    tokens.resize(size or len(tokens.texts))
    for text, number in texts.items():
        tokens.set(int(number), text, USER_DEFINED)
    if keys.vocabulary == "unigram":
        return tokens.values("t5", "default") | normaliser
    if keys.vocabulary in ("added", "added-spaced"):
        for number, token in (*named.items(), *more.items()):
            kind = CONTROL if token.get("special") else USER_DEFINED
            tokens.set(number, str(token["content"]), kind)
        if keys.vocabulary == "added-spaced":
            key = "tokenizer.ggml.add_space_prefix"
            return tokens.values("llama", "default") | {key: normaliser[key]}
    else:
        for number, token in named.items():
            tokens.set(number, *pieces.as_added(token))
    return tokens.values("llama", "default")


def _numbered(vocab: Mapping[str, int], size: int, added: Mapping[int, Token]) -> Tokens:
    """The tokens of a vocabulary by number, unused ones where it has none."""
    by_number = {number: text for text, number in vocab.items()}
    tokens = Tokens()
    for number in range(max(size, max([*by_number, *added], default=-1) + 1)):
        if number in added:
            tokens.append(*pieces.as_added(added[number]))
        elif number in by_number:
            tokens.append(by_number[number], NORMAL)
        else:
            tokens.append(f"[PAD{number}]", UNUSED)
    return tokens


def _listed(
    document: Mapping[str, Any], size: int, added: Mapping[int, Token]
) -> dict[str, KeyValue]:
    tokens = _numbered(document["model"]["vocab"], size, {})
    for number, text in enumerate(tokens.texts):
        if number in added:
            special = added[number].get("special")
            tokens.set(number, str(added[number]["content"]), CONTROL if special else USER_DEFINED)
        elif BYTE_TOKEN.fullmatch(text):
            tokens.types[number] = BYTE
    return tokens.values("llama", "default", scored=False)


def _of_gemma4(
    document: Mapping[str, Any],
    settings: Mapping[str, Any],
    size: int,
    added: Mapping[int, Token],
) -> dict[str, KeyValue]:
    """Pieces with byte fallback that are joined by merges, without scores that mean something.

    Control tokens are those that the tokenizer's settings name.
    """
    named = {_text(value) for key, value in settings.items() if key.endswith("_token")}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        found = settings.get(key) or ()
        named |= {_text(t) for t in (found.values() if isinstance(found, Mapping) else found)}
    vocab = document["model"]["vocab"]
    texts = {number: text for text, number in vocab.items()}
    texts |= {number: str(token["content"]) for number, token in added.items()}
    tokens = Tokens()
    for number, text in sorted(texts.items()):
        if len(tokens.texts) != number:
            raise ValueError(f"no token has the number {len(tokens.texts)}")
        special = text in named or (text not in vocab and added[number].get("special"))
        kind = CONTROL if special else NORMAL if text in vocab else USER_DEFINED
        kind = USER_DEFINED if text in _VISIBLE else kind
        tokens.append(text, BYTE if BYTE_TOKEN.fullmatch(text) else kind, _SCORE)
    tokens.resize(max(size, len(tokens.texts)))
    values = tokens.values("gemma4", "default")
    del values[_PRE]
    return values | {"tokenizer.ggml.merges": _merges(document["model"], "▁")}


def _of_fairseq(
    folder: LocalFolder,
    document: Mapping[str, Any],
    settings: Mapping[str, Any],
    size: int,
    limits: Limits,
) -> dict[str, KeyValue] | None:
    """A unigram model's pieces after four tokens in the order of fairseq (XLM-RoBERTa)."""
    data = _read(folder, _FAIRSEQ, limits)
    if data is not None:
        tokens, normaliser = pieces.of_model(folder.join(_FAIRSEQ), data)
        tokens.resize(size or len(tokens.texts))
        tokens.ids = {}  # of other numbers than fairseq's
        tokens.texts[:] = ["<s>", "<pad>", "</s>", "<unk>", *tokens.texts[3:-1]]
        tokens.types[:] = [CONTROL, CONTROL, CONTROL, UNKNOWN, *tokens.types[3:-1]]
        tokens.scores[:] = [*[0.0] * 4, *tokens.scores[3:-1]]
        return tokens.values("t5", "default") | normaliser
    if (document.get("model") or {}).get("type") != "Unigram":
        return None
    added = {int(token["id"]): token for token in document.get("added_tokens") or ()}
    tokens, normaliser = pieces.of_unigram(document, added)
    for number, token in added.items():
        if tokens.types[number] == NORMAL and not token.get("special"):
            tokens.types[number] = USER_DEFINED
    tokens.resize(max(size, len(tokens.texts)))
    trims = KeyValue(_BOOL, bool(settings.get("clean_up_tokenization_spaces")))
    return tokens.values("t5", "default") | normaliser | {_TRIMS: trims}


def _text(token: Any) -> str:
    return str(token.get("content")) if isinstance(token, Mapping) else str(token)


def _merges(model: Mapping[str, Any], space: str) -> KeyValue:
    merges = [
        m if isinstance(m, str) else " ".join(part.replace(" ", space) for part in m)
        for m in model.get("merges") or ()
    ]
    return KeyValue(ARRAY, merges, STRING)


def _byte_level(
    where: str, document: Mapping[str, Any], size: int, added: Mapping[int, Token], given: object
) -> dict[str, KeyValue]:
    model = document["model"]
    pre = str(given) if given else _pre_tokenizer(where, document.get("pre_tokenizer") or {})
    values = _numbered(model["vocab"], size, added).values("gpt2", pre, scored=False)
    return values | {"tokenizer.ggml.merges": _merges(model, "Ġ")}


def _wordpiece(
    document: Mapping[str, Any], size: int, added: Mapping[int, Token]
) -> dict[str, KeyValue]:
    """llama.cpp marks the beginnings of words, WordPiece their continuations."""
    tokens = _numbered(document["model"]["vocab"], size, added)
    for number, (text, kind) in enumerate(zip(tokens.texts, tokens.types, strict=True)):
        if kind != CONTROL:
            tokens.texts[number] = text[2:] if text.startswith("##") else f"▁{text}"
    return tokens.values("bert", "default", scored=False)


def _pre_tokenizer(where: str, document: Mapping[str, Any]) -> str:
    """llama.cpp's name of a pre-tokeniser; UnsupportedError names what can be done about it."""
    name = name_of(document)
    if name is not None:
        return name
    kinds = [step.get("type") for step in document.get("pretokenizers") or [document]]
    raise UnsupportedError(
        f"{where}: tokenizer.json: its pre-tokeniser ({', '.join(map(str, kinds))}) is not known; "
        f"name llama.cpp's with --gguf-kv {_PRE}=NAME"
    )


def _normaliser(folder: LocalFolder, limits: Limits) -> dict[str, KeyValue]:
    """Whether a `tokenizer.json` lowers case and strips accents, where it says so."""
    document = read_object(folder, "tokenizer.json", limits)
    values: dict[str, KeyValue] = {}
    for step in pieces.steps(document.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind in ("Lowercase", "StripAccents"):
            step = {"lowercase" if kind == "Lowercase" else "strip_accents": True}
        for name in ("lowercase", "strip_accents"):
            if isinstance(step.get(name), bool) and kind in _NORMALISERS:
                values[f"tokenizer.ggml.normalizer.{name}"] = KeyValue(_BOOL, step[name])
    return values


def _special(path: str, tokens: list[str], keys: Keys) -> dict[str, KeyValue]:
    """Ids of special tokens, whether they are added, normalisation, and the chat template."""
    try:
        from gguf import GGUFWriter, SpecialVocab
    except ImportError as error:
        raise UnsupportedError(
            f"special tokens of a GGUF need the `gguf` package: {extra('gguf')}"
        ) from error
    log = logging.getLogger("gguf.vocab")  # it warns of templates for two texts
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        found = SpecialVocab(path, load_merges=False, n_vocab=len(tokens))
    finally:
        log.setLevel(level)
    numbers = dict(found.special_token_ids)
    for name, token in keys.tokens.items():
        number = tokens.index(token) if token in tokens else token
        if isinstance(number, int):
            numbers[name.rstrip("!")] = number if name.endswith("!") else numbers.get(name, number)
    values: dict[str, KeyValue] = {}
    for name, number in numbers.items():
        if hasattr(GGUFWriter, f"add_{name}_token_id"):
            key = f"tokenizer.ggml.{_IDS.get(name, name)}_token_id"
            values[key] = KeyValue(_UINT32, int(number))
    for name, flag in found.add_special_token.items():
        values[f"tokenizer.ggml.add_{name}_token"] = KeyValue(_BOOL, bool(flag))
    template = found.chat_template
    if isinstance(template, str):
        values["tokenizer.chat_template"] = KeyValue(STRING, template)
    return values
