"""What the pickle of a checkpoint says beside its tensors, in the form of safetensors' metadata.

A dict that a tool saved beside the state dict, such as `{"quantization_config": {…}}`, is JSON of
it; a text is itself. Only what speaks of quantisation is kept, which schemes look for a method in.
"""

from __future__ import annotations

import json
from typing import Any

from anamnesis.readers.pickle_vm import Node

_KEPT = 64  # of the outermost mapping
_ITEMS = 4096  # of one dict, at all depths
_DEPTH = 16
_CHARACTERS = 1 << 16
_BITS = 64  # of an integer
_WORD = "quant"


class _NotPlainError(ValueError):
    """It holds tensors, or is no document."""


def texts_beside(top: Any) -> dict[str, str]:
    """The texts, and the dicts of plain values as JSON, of a mapping that speak of quantisation."""
    found: dict[str, str] = {}
    items = top.items if type(top) is Node and top.kind == "dict" else ()
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(value) not in (str, Node) or type(key) is not str or len(found) == _KEPT:
            continue
        try:
            text = value if type(value) is str else json.dumps(_plain(value, [_ITEMS], 0))
            said = len(text) <= _CHARACTERS and _WORD in f"{key}{text}".lower() and text.encode()
        except (_NotPlainError, UnicodeEncodeError):
            continue
        if said:
            found[key] = text if text[:1] != "[" else f'{{"list": {text}}}'
    return found


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """A node as JSON has it; `left` are the items that may still come."""
    if type(value) in (str, bool, float, type(None)):
        return value
    if type(value) is int and value.bit_length() <= _BITS:
        return value
    left[0] -= len(value.items) if type(value) is Node else 0
    if type(value) is not Node or value.kind == "set" or left[0] < 0 or depth >= _DEPTH:
        raise _NotPlainError
    if value.kind != "dict":
        return [_plain(item, left, depth + 1) for item in value.items]
    pairs = value.pairs()
    if not all(type(key) is str for key, _ in pairs):
        raise _NotPlainError
    return {key: _plain(inner, left, depth + 1) for key, inner in pairs}
