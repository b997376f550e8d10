"""The files of a tokenizer out of a GGUF's vocabulary, by the `tokenizers` package (extra `hf`).

Kinds of vocabularies are those of llama.cpp (`tokenizer.ggml.model`): `gpt2` is byte-level BPE with
its merges, `llama` a SentencePiece BPE whose merges follow from the scores, `t5` a unigram model
and `bert` WordPiece. Expressions of pre-tokenisers are those that the models' own `tokenizer.json`
have, by the names that llama.cpp's src/llama-vocab.cpp gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.readers.gguf_types import KeyValue

_CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 3, 4, 5, 6  # llama_token_type
_NORMAL, _UNKNOWN = 1, 2

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_ENDING}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What is split before bytes are mapped; "" is GPT-2's own expression.
SPLITS: dict[str, str] = {
    "default": "",
    "dbrx": _LLAMA3,
    "gpt-2": "",
    "gpt-4o": _GPT4O,
    "gpt2": "",
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "mpt": "",
    "olmo": "",
    "phi-2": "",
    "qwen2": _QWEN2,
    "smaug-bpe": _LLAMA3,
    "stablelm2": _QWEN2,
}
DIGITS = ("codeshell", "command-r", "refact", "smollm", "starcoder")  # one by one, then GPT-2's


def tokenizer_files(values: Mapping[str, KeyValue]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """`tokenizer.json`, `tokenizer_config.json` and a chat template, and remarks.

    Without `tokenizers`, or for a kind that is not known, there is a remark instead of the first.
    """
    plain = {key: value.value for key, value in values.items()}
    tokens = plain.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return {}, ("the file has no vocabulary: no tokenizer was written",)
    files = {"tokenizer_config.json": _json(_settings(plain, tokens))}
    try:
        made, notes = _tokenizer(plain, tokens)
    except ImportError:
        return files, (
            "no tokenizer.json was written: it needs `tokenizers` (pip install anamnesis[hf])",
        )
    except UnsupportedError as error:
        return files, (f"no tokenizer.json was written: {error}",)
    files["tokenizer.json"] = made.encode()
    return files, notes


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _special(plain: Mapping[str, Any], name: str, tokens: Sequence[str]) -> str | None:
    number = plain.get(f"tokenizer.ggml.{name}_token_id")
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None


def _settings(plain: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    kind = plain.get("tokenizer.ggml.model")
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in (
        ("bos", "bos_token"),
        ("eos", "eos_token"),
        ("unknown", "unk_token"),
        ("padding", "pad_token"),
        ("cls", "cls_token"),
        ("seperator", "sep_token"),
        ("mask", "mask_token"),
    ):
        token = _special(plain, name, tokens)
        if token is not None:
            settings[key] = token
    if kind == "bert":
        settings |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "tokenizer_class": "BertTokenizer"}
        settings |= {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    for name in ("add_bos_token", "add_eos_token"):
        if f"tokenizer.ggml.{name}" in plain:
            settings[name] = plain[f"tokenizer.ggml.{name}"]
    template = plain.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    settings["clean_up_tokenization_spaces"] = kind == "bert"
    return settings


def _tokenizer(plain: Mapping[str, Any], tokens: list[str]) -> tuple[str, tuple[str, ...]]:
    kind = plain.get("tokenizer.ggml.model")
    makers = {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram, "bert": _wordpiece}
    maker = makers.get(str(kind))
    if maker is None:
        known = ", ".join(makers)
        raise UnsupportedError(f"vocabularies of kind {kind!r:.100}; known are {known}")
    made, notes = maker(plain, tokens)
    from tokenizers import AddedToken

    types = plain.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    added = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    made.add_tokens(added)
    _add_template(made, plain, tokens)
    return made.to_str(pretty=False), notes


def _add_template(made: Any, plain: Mapping[str, Any], tokens: Sequence[str]) -> None:
    """Tokens before and after a text, as the file says that a model wants them."""
    from tokenizers import processors

    kind = plain.get("tokenizer.ggml.model")
    bos, eos = _special(plain, "bos", tokens), _special(plain, "eos", tokens)
    first = plain.get("tokenizer.ggml.add_bos_token", kind == "llama") and bos
    last = plain.get("tokenizer.ggml.add_eos_token", kind == "t5") and eos
    if kind == "bert":
        first, last = "[CLS]", "[SEP]"
    if not first and not last:
        return
    before, after = ([f"{first}"] if first else []), ([f"{last}"] if last else [])
    used = sorted({*before, *after})
    pairs = [(token, tokens.index(token)) for token in used if token in tokens]
    second = [f"{token}:1" for token in ([] if kind == "bert" else before)]
    made.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *second, "$B:1", *(f"{token}:1" for token in after)],
        special_tokens=pairs,
    )


def _byte_level(plain: Mapping[str, Any], tokens: list[str]) -> tuple[Any, tuple[str, ...]]:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(text.split(" ", 1)) for text in plain.get("tokenizer.ggml.merges", [])]
    vocab = {token: number for number, token in enumerate(tokens)}
    ignore = plain.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3")
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore))
    name = str(plain.get("tokenizer.ggml.pre", "default"))
    space = bool(plain.get("tokenizer.ggml.add_space_prefix", False))
    steps: list[Any] = []
    notes: tuple[str, ...] = ()
    if name in DIGITS:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    elif SPLITS.get(name):
        steps.append(pre_tokenizers.Split(Regex(SPLITS[name]), "isolated"))
    elif name not in SPLITS:
        notes = (
            f"tokenizer.json: pre-tokeniser {name!r:.100} is not known; GPT-2's stands for it",
        )
    own = not SPLITS.get(name)
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=own))
    made.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    return made, notes


def _sentencepiece(plain: Mapping[str, Any], tokens: list[str]) -> tuple[Any, tuple[str, ...]]:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = plain.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    types = plain.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    vocab = {token: number for number, token in enumerate(tokens)}
    fallback = any(kind == _BYTE for kind in types)
    unknown = _special(plain, "unknown", tokens)
    unknown = unknown or next(
        (t for t, k in zip(tokens, types, strict=False) if k == _UNKNOWN), None
    )
    made = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(tokens, scores, types),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=fallback,
        )
    )
    prefix = bool(plain.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    back: list[Any] = [decoders.Replace("▁", " ")]
    back += [decoders.ByteFallback(), decoders.Fuse()] if fallback else [decoders.Fuse()]
    made.decoder = decoders.Sequence(back + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return made, ()


def _merges(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """Every way to make a piece of two others: best scores first, then by the ids of both."""
    plain = {
        token: number
        for number, token in enumerate(tokens)
        if types[number] in (_NORMAL, _USER_DEFINED, _UNUSED)
    }
    found: list[tuple[float, int, int, int, str, str]] = []
    for number, token in enumerate(tokens):
        if types[number] != _NORMAL:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                found.append((-scores[number], plain[left], plain[right], number, left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _unigram(plain: Mapping[str, Any], tokens: list[str]) -> tuple[Any, tuple[str, ...]]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    scores = plain.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    unknown = int(plain.get("tokenizer.ggml.unknown_token_id", 2))
    made = Tokenizer(models.Unigram(list(zip(tokens, map(float, scores), strict=True)), unknown))
    steps: list[Any] = []
    charsmap = plain.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap:
        steps.append(normalizers.Precompiled(bytes(b & 255 for b in charsmap)))
    if plain.get("tokenizer.ggml.remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        made.normalizer = normalizers.Sequence(steps)
    prefix = bool(plain.get("tokenizer.ggml.add_space_prefix", True))
    scheme = "always" if prefix else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return made, ()


def _wordpiece(plain: Mapping[str, Any], tokens: list[str]) -> tuple[Any, tuple[str, ...]]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    # llama.cpp marks the beginnings of words, WordPiece their continuations.
    types = plain.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    for number, token in enumerate(tokens):
        if types[number] == _NORMAL and not (token.startswith("[") and token.endswith("]")):
            start = token.startswith("▁")
            tokens[number] = token[1:] if start else f"##{token.removeprefix('##')}"
    vocab = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made, ()
