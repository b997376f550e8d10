"""Statements of a method in words that no tool is known for: they count for integers alone.

| statement | at |
|---|---|
| the name of a known method in the file's: `awq_config.json` | a file beside the weights |
| `bits` beside a size of groups; `weight_bits` and the like, 1 to 8; `load_in_4bit`, … | any |
| `weight_dtype`, `weights_format`, …: a known method, or a number format of 8 bits or fewer | any |
| `compression`, `format`: the same; a block of these that names something, or has bits | any |
| `quant_methods` and other plurals of what `_stated` knows | any |

Floats stay what they are under them: that would be too much to conclude from such a word. A matrix
of integers for which nothing else accounts is no dense weight, and is refused with the statement.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from anamnesis.readers.schemes._stated import NARROW, canonical, is_key, is_telling

_DEPTH = 32  # as deep as JSON is read
_BITS = frozenset(("bits", "nbits", "numbits"))
_WEIGHT_BITS = frozenset("nbits quantbits wbit wbits weightbit weightbits weightsbits".split())
_GROUPS = frozenset(("blocksize", "groupsize", "qgroupsize"))
_FORMATS = re.compile(r"weights?(dtype|format|precision|scheme|type)|compression|format")
_BLOCKS = frozenset(("compression", "format"))
_NAMES = frozenset("algorithm format method name scheme type".split())
_FEW_BITS = re.compile(r"[1-8][-_ ]?bits?", re.IGNORECASE)
_FILE = re.compile(r"(.+?)[_.-]?config\.json", re.IGNORECASE)
_DENSE_TOO = frozenset(("gemma", "gguf", "jang", "metal", "mlx"))  # of models of floats as well


def hint(
    configs: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Any], methods: Collection[str]
) -> str:
    """Where such a statement is, and what it says; "" for none.

    `configs` are by file name, `metadata` is safetensors', `methods` are the known ones.
    """
    known = frozenset(methods) - _DENSE_TOO
    for name, config in configs.items():
        file = _FILE.fullmatch(name)
        if file and canonical(file[1]) in known:
            return name
        for found in _walk(config, f"{name}: ", known, 0):
            return found
    return next(_walk(metadata, "metadata ", known, 0), "")


def _walk(value: object, path: str, known: frozenset[str], depth: int) -> Iterator[str]:
    if depth > _DEPTH:
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}{number}.", known, depth + 1)
    if not isinstance(value, Mapping):
        return
    words = {_word(key) for key in value}
    for key, inner in value.items():
        if _says(key, inner, known) or (
            _word(key) in _BITS and _few(inner) and not _GROUPS.isdisjoint(words)
        ):
            text = "" if isinstance(inner, (dict, list)) else f" ({inner!s:.80})"
            yield f"{path}{key}{text}"
    for key, inner in value.items():
        if isinstance(inner, (dict, list)):
            yield from _walk(inner, f"{path}{key}.", known, depth + 1)


def _says(key: str, value: object, known: frozenset[str]) -> bool:
    """Whether a key and its value are a statement, whatever stands beside them."""
    word = _word(key)
    if is_telling(key, value) or (word in _WEIGHT_BITS and _few(value)):
        return True
    if key.endswith("s") and is_key(key[:-1], value) and isinstance(value, (str, list)):
        return bool(value)
    if isinstance(value, str):
        return _FORMATS.fullmatch(word) is not None and _is_narrow(value, known)
    if word not in _BLOCKS or not isinstance(value, Mapping):
        return False
    return any((_word(k) in _NAMES and bool(v)) or _few(v) for k, v in value.items())


def _word(key: str) -> str:
    return key.rpartition(".")[2].lower().replace("_", "").replace("-", "")


def _few(value: object) -> bool:
    return type(value) is int and 1 <= value <= 8


def _is_narrow(text: str, known: frozenset[str]) -> bool:
    text = text[:200]
    patterns = (NARROW, _FEW_BITS)
    return canonical(text) in known or any(one.fullmatch(text) for one in patterns)
