"""Tokenizers by llama.cpp's kinds of vocabulary (`tokenizer.ggml.model`).

`gpt2` is byte-level BPE with its merges, `llama` a SentencePiece BPE whose merges follow from the
scores, `gemma4` such a BPE with its merges, `t5` a unigram model and `bert` WordPiece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.names.splits import WHOLE_WORDS, pre_tokenizer

# llama_token_type of https://github.com/ggml-org/llama.cpp, include/llama.h
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE = "▁"
# What llama.cpp takes where a file does not say (src/llama-vocab.cpp), by kind of vocabulary.
_USUAL: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "t5": {"eos": 1, "padding": 0, "unknown": 2},
}


def usual_id(kind: Any, name: str, count: int) -> int | None:
    """The id of a special token that a file of `count` tokens does not say; None for none."""
    number = _USUAL.get(str(kind), {}).get(name)
    return number if number is not None and number < count else None


@dataclass
class Vocabulary:
    """The key/values of a file, and its tokens with their types and scores."""

    plain: Mapping[str, Any]
    tokens: list[str] = field(init=False)
    types: list[int] = field(init=False)
    scores: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.plain["tokenizer.ggml.tokens"])
        self.types = self.get("token_type", []) or [NORMAL] * len(self.tokens)
        self.scores = self.get("scores", []) or [0.0] * len(self.tokens)

    @property
    def kind(self) -> str:
        """The kind of vocabulary."""
        return str(self.get("model", ""))

    def get(self, key: str, default: Any) -> Any:
        """The value of `tokenizer.ggml.KEY`."""
        return self.plain.get(f"tokenizer.ggml.{key}", default)

    def special(self, name: str, *, any_type: bool = False) -> str | None:
        """The text of a special token; None where the file has none.

        Converters write the ids of config.json, which some tokenizers use for ordinary tokens:
        those count with `any_type` alone.
        """
        usual = usual_id(self.kind, name, len(self.tokens))
        number = self.get(f"{name}_token_id", usual)
        if not isinstance(number, int) or not 0 <= number < len(self.tokens):
            return None
        marked = any(kind == CONTROL for kind in self.types)
        if marked and not any_type and self.types[number] in (NORMAL, BYTE):
            return None
        return self.tokens[number]

    @property
    def unknown(self) -> str | None:
        """The token of what has none."""
        named = self.special("unknown", any_type=True)
        of_type = (t for t, k in zip(self.tokens, self.types, strict=False) if k == UNKNOWN)
        return named or next(of_type, None)


Made = tuple[Any, tuple[str, ...]]  # a Tokenizer, and remarks


def model_of(words: Vocabulary) -> Made:
    """The tokenizer without its added tokens; UnsupportedError for a kind that is not known."""
    makers = {
        "bert": _wordpiece,
        "gemma4": _merged_pieces,
        "gpt2": _byte_level,
        "llama": _pieces,
        "t5": _unigram,
    }
    maker = makers.get(words.kind)
    if maker is None:
        known = ", ".join(makers)
        raise UnsupportedError(f"vocabularies of kind {words.kind!r:.100}; known are {known}")
    return maker(words)


def _merges(words: Vocabulary) -> list[tuple[str, str]]:
    """The merges that a file lists: two parts, one of which may begin with a space."""
    found: list[tuple[str, str]] = []
    if words.get("merges", None) is None:
        raise UnsupportedError("the file lists no merges, of which its words are made")
    for text in words.get("merges", []):
        at = text.find(" ", 1)
        found.append((text[:at], text[at + 1 :]))
    return found


def _vocab(words: Vocabulary) -> dict[str, int]:
    return {token: number for number, token in enumerate(words.tokens)}


def _byte_level(words: Vocabulary) -> Made:
    from tokenizers import Tokenizer, decoders, models

    name = str(words.get("pre", "") or "default")
    model = models.BPE(
        vocab=_vocab(words), merges=_merges(words), ignore_merges=name in WHOLE_WORDS
    )
    made = Tokenizer(model)
    space = bool(words.get("add_space_prefix", False))
    notes: tuple[str, ...] = ()
    try:
        made.pre_tokenizer = pre_tokenizer(name, space=space)
    except KeyError:
        made.pre_tokenizer = pre_tokenizer("gpt-2", space=space)
        notes = (
            f"tokenizer.json: pre-tokeniser {name!r:.100} is not known; GPT-2's stands for it",
        )
    made.decoder = decoders.ByteLevel()
    return made, notes


def _merged_pieces(words: Vocabulary) -> Made:
    """A BPE of SentencePiece's tokens, whose merges the file has."""
    return _with_spaces(words, _merges(words)), ()


def _pieces(words: Vocabulary) -> Made:
    return _with_spaces(words, _merges_by_score(words)), ()


def _with_spaces(words: Vocabulary, merges: Sequence[tuple[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    fallback = any(kind == BYTE for kind in words.types)
    model = models.BPE(
        vocab=_vocab(words),
        merges=list(merges),
        unk_token=words.unknown,
        fuse_unk=True,
        byte_fallback=fallback,
    )
    made = Tokenizer(model)
    prefix = bool(words.get("add_space_prefix", words.kind == "llama"))
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    back: list[Any] = [decoders.Replace(_SPACE, " ")]
    back += [decoders.ByteFallback(), decoders.Fuse()] if fallback else [decoders.Fuse()]
    made.decoder = decoders.Sequence(back + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return made


def _merges_by_score(words: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a piece of two others: best scores first, then by the ids of both."""
    tokens, types = words.tokens, words.types
    plain = {
        token: number
        for number, token in enumerate(tokens)
        if types[number] in (NORMAL, USER_DEFINED, UNUSED)
    }
    found: list[tuple[float, int, int, int, str, str]] = []
    for number, token in enumerate(tokens):
        if types[number] != NORMAL:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                found.append(
                    (-words.scores[number], plain[left], plain[right], number, left, right)
                )
    found.sort()
    return [(left, right) for *_, left, right in found]


def _unigram(words: Vocabulary) -> Made:
    """SentencePiece's unigram model: a text is cut at its spaces, of which runs count as one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    scores = map(float, words.scores)
    unknown = int(words.get("unknown_token_id", 2))
    made = Tokenizer(models.Unigram(list(zip(words.tokens, scores, strict=True)), unknown))
    charsmap = words.get("precompiled_charsmap", [])
    if charsmap:
        made.normalizer = normalizers.Precompiled(bytes(b & 255 for b in charsmap))
    scheme = "always" if words.get("add_space_prefix", True) else "never"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme),
        ]
    )
    made.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return made, ()


def _wordpiece(words: Vocabulary) -> Made:
    """llama.cpp marks the beginnings of words, WordPiece their continuations."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab = {}
    for number, (token, kind) in enumerate(zip(words.tokens, words.types, strict=False)):
        text = token
        if kind == NORMAL and not (token.startswith("[") and token.endswith("]")):
            start = token.startswith(_SPACE)
            text = token[1:] if start else f"##{token.removeprefix('##')}"
        vocab[text] = number
    unknown = "[UNK]" if "[UNK]" in vocab else words.unknown or "[UNK]"
    made = Tokenizer(models.WordPiece(vocab=vocab, unk_token=unknown))
    made.normalizer = normalizers.BertNormalizer(
        lowercase=bool(words.get("normalizer.lowercase", True)),
        strip_accents=words.get("normalizer.strip_accents", None),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made, ()
