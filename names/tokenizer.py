"""The files of a tokenizer out of a GGUF's vocabulary, by the `tokenizers` package (extra `hf`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.names.splits import BEGINNING
from anamnesis.names.tokenizer_models import CONTROL, USER_DEFINED, Vocabulary, model_of
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.words import extra

_TOKENS = (
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("unknown", "unk_token"),
    ("padding", "pad_token"),
    ("cls", "cls_token"),
    ("seperator", "sep_token"),
    ("mask", "mask_token"),
)
_BERT = {
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}


def tokenizer_files(values: Mapping[str, KeyValue]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """`tokenizer.json` and `tokenizer_config.json` with the chat template, and remarks.

    Without `tokenizers`, for a kind that is not known and for a vocabulary that contradicts itself,
    there is a remark instead of the first.
    """
    plain = {key: value.value for key, value in values.items()}
    if not isinstance(plain.get("tokenizer.ggml.tokens"), list):
        return {}, ("the file has no vocabulary: no tokenizer was written",)
    files: dict[str, bytes] = {}
    try:
        words = Vocabulary(plain)
        files["tokenizer_config.json"] = _json(_settings(words))
        made, notes = _tokenizer(words)
    except ImportError:
        return files, (f"no tokenizer.json was written: it needs `tokenizers`: {extra('hf')}",)
    except UnsupportedError as error:
        return files, (f"no tokenizer.json was written: {error}",)
    except MemoryError:
        raise
    except Exception as error:  # `tokenizers` has no class of its own for a vocabulary it refuses
        what = f"{error}".rstrip(".")
        return files, (f"no tokenizer.json was written: the vocabulary contradicts itself: {what}",)
    files["tokenizer.json"] = made.encode()
    return files, notes


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _settings(words: Vocabulary) -> dict[str, Any]:
    """`tokenizer_config.json`."""
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in _TOKENS:
        token = words.special(name)
        if token is not None:
            settings[key] = token
    if words.kind == "bert":
        settings = {"tokenizer_class": "BertTokenizer"} | {
            key: token for key, token in _BERT.items() if token in words.tokens
        }
        settings["do_lower_case"] = words.get("normalizer.lowercase", True)
        if words.get("normalizer.strip_accents", None) is not None:
            settings["strip_accents"] = words.get("normalizer.strip_accents", None)
    for name in ("add_bos_token", "add_eos_token"):
        if words.get(name, None) is not None:
            settings[name] = words.get(name, False)
    settings |= _templates(words.plain)
    length = words.plain.get(f"{words.plain.get('general.architecture')}.context_length")
    if length:
        settings["model_max_length"] = length
    settings["clean_up_tokenization_spaces"] = words.kind == "bert"
    return settings


def _templates(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template, or all of them by name where there are several."""
    start = "tokenizer.chat_template"
    found = {
        key.removeprefix(start).lstrip(".") or "default": text
        for key, text in plain.items()
        if (key == start or key.startswith(f"{start}.")) and isinstance(text, str)
    }
    if not found:
        return {}
    if set(found) == {"default"}:
        return {"chat_template": found["default"]}
    return {"chat_template": [{"name": n, "template": t} for n, t in sorted(found.items())]}


def _tokenizer(words: Vocabulary) -> tuple[str, tuple[str, ...]]:
    made, notes = model_of(words)
    from tokenizers import AddedToken

    made.add_tokens(
        [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(words.tokens, words.types, strict=False)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    _add_template(made, words)
    return made.to_str(pretty=False), notes


def _around(words: Vocabulary) -> tuple[str | None, str | None]:
    """Tokens before and after a text, as the file, or else llama.cpp, says that a model wants them.

    A file need not say what its kind of vocabulary, or its pre-tokeniser, does anyway.
    """
    if words.kind == "bert":
        first, last = words.special("bos", any_type=True), words.special("seperator", any_type=True)
        named = [token if token in words.tokens else None for token in ("[CLS]", "[SEP]")]
        return named[0] or first, named[1] or last
    begins = words.kind in ("llama", "gemma4") or words.get("pre", "") in BEGINNING
    first = words.get("add_bos_token", begins)
    last = words.get("add_eos_token", words.kind == "t5")
    return (
        words.special("bos", any_type=True) if first else None,
        words.special("eos", any_type=True) if last else None,
    )


def _add_template(made: Any, words: Vocabulary) -> None:
    from tokenizers import processors

    first, last = _around(words)
    before, after = ([first] if first else []), ([last] if last else [])
    used = sorted({*before, *after})
    if not used:
        return
    second = [f"{token}:1" for token in ([] if words.kind == "bert" else before)]
    made.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *second, "$B:1", *(f"{token}:1" for token in after)],
        special_tokens=[(t, words.tokens.index(t)) for t in used if t in words.tokens],
    )
