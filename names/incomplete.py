"""Half of a model: what lacks by its own count of layers, or by its other layers, by GGUF names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anamnesis.words import and_more

_LAYER = re.compile(r"blk\.(\d+)\.(.*)")
_KINDS = 64  # of layers, by the tensors they have; no model has so many
# Of layers that predict further tokens, and of those that look for what others look at.
_SOME_LAYERS = ("nextn.", "indexer.")


def lacking(
    names: Sequence[str], metadata: Mapping[str, Any], some_layers: tuple[str, ...]
) -> Iterator[str]:
    """Remarks on layers, and tensors of layers, that are not among `names` of a GGUF.

    `some_layers` begin the names of tensors that not all layers of the architecture have.
    """
    layers: dict[int, set[str]] = {}
    for name in names:
        found = _LAYER.fullmatch(name)
        if found and not found[2].startswith(_SOME_LAYERS + some_layers):
            layers.setdefault(int(found[1]), set()).add(found[2])
    if not layers:
        return
    key = f"{metadata.get('general.architecture')}.block_count"
    count = metadata.get(key, len(layers))
    if isinstance(count, int) and (len(layers), max(layers) + 1) != (count, count):
        yield f"{key} is {count}; there are {len(layers)} layers, up to blk.{max(layers)}"
    wider = _wider(set(map(frozenset, layers.values())))
    short = [
        f"blk.{layer}.{name}"
        for layer, has in sorted(layers.items())
        for name in sorted(wider.get(frozenset(has), ()))
    ]
    if short:
        yield (
            f"{short[0]}{and_more(len(short))} missing, which other layers have: transformers "
            "fills in random numbers, llama.cpp does not load it"
        )


def _wider(kinds: set[frozenset[str]]) -> dict[frozenset[str], frozenset[str]]:
    """What kinds of layers lack of others, which have all of their tensors and more."""
    if len(kinds) > _KINDS:
        return {}
    found = {}
    for has in kinds:
        lacks = [other - has for other in kinds if has < other]
        if lacks:
            found[has] = min(lacks, key=lambda names: (len(names), sorted(names)))
    return found
