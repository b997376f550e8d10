"""A byte-level vocabulary in `tiktoken`'s file: a line a token, its bytes in base64 and its rank.

Such a file has neither merges nor special tokens. A token's merge is of the two parts that those of
lower ranks leave of its bytes, as llama.cpp's converter finds them (`QwenModel.bpe` of conversion/
in https://github.com/ggml-org/llama.cpp). The special tokens are in the code beside the model:
Kimi's are 256 numbers after the others, named in tokenizer_config.json or else by their number
(tokenization_kimi.py of https://huggingface.co/moonshotai/Kimi-K2-Instruct).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.pieces import CONTROL, NORMAL, UNUSED, Tokens
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue

FILE = "tiktoken.model"

_CLASS, _PRE = "TikTokenTokenizer", "kimi-k2"  # Kimi's, and llama.cpp's name of its expression
_SPECIAL = 256
# The characters that GPT-2 writes bytes as: themselves where they are seen, others from 256 on.
_SEEN = {*range(33, 127), *range(161, 173), *range(174, 256)}
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
_CHARACTERS = [chr(b if b in _SEEN else 256 + _UNSEEN.index(b)) for b in range(256)]


def of_ranks(
    path: str, data: bytes, size: int, settings: Mapping[str, Any], given: object
) -> dict[str, KeyValue]:
    """The keys of the vocabulary in a file, for embeddings of `size` rows.

    `settings` are those of tokenizer_config.json, `given` the caller's name of a pre-tokeniser.
    Raises FormatError for what is no such file, and UnsupportedError for another class than Kimi's,
    whose special tokens are not known.
    """
    if settings.get("tokenizer_class") != _CLASS:
        raise UnsupportedError(
            f"{path}: special tokens of {settings.get('tokenizer_class')!r:.100} are in its own "
            f"code; those of {_CLASS!r} (Kimi) are known. A tokenizer.json beside it says all"
        )
    ranks = _ranks(path, data)
    named = settings.get("added_tokens_decoder") or {}
    first = len(ranks)
    special = {
        number: str((named.get(str(number)) or {}).get("content") or f"<|reserved_token_{number}|>")
        for number in range(first, first + _SPECIAL)
    }
    texts = {rank: _text(token) for token, rank in ranks.items()} | special
    tokens = Tokens()
    for number in range(max(size, first + _SPECIAL)):
        kind = CONTROL if number in special else NORMAL if number in texts else UNUSED
        tokens.append(texts.get(number, f"[PAD{number}]"), kind)
    merges = [
        " ".join(map(_text, parts)) for parts in map(_Merger(ranks), ranks) if len(parts) == 2
    ]
    values = tokens.values("gpt2", str(given) if given else _PRE, scored=False)
    return values | {"tokenizer.ggml.merges": KeyValue(ARRAY, merges, STRING)}


def _ranks(path: str, data: bytes) -> dict[bytes, int]:
    """The ranks of all tokens, from 0 on."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines()):
        try:
            text, rank = line.split()
            ranks[base64.b64decode(text, validate=True)] = int(rank)
        except ValueError as error:
            raise FormatError(
                f"{path}: line {number + 1}: found {line!r:.60}; allowed: a token in base64, and "
                "its rank"
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise FormatError(f"{path}: found ranks that are not those from 0 to {len(ranks) - 1}")
    return ranks


def _text(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)


class _Merger:
    """From a token to the parts that the merges before its own leave."""

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        self._ranks = ranks

    def __call__(self, token: bytes) -> list[bytes]:
        own, none = self._ranks[token], len(self._ranks)
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 1:
            pairs = [self._ranks.get(a + b, none) for a, b in pairwise(parts)]
            lowest = min(pairs)
            if lowest >= own:
                break
            at = pairs.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts
