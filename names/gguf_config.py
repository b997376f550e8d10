"""A GGUF's key/values out of `config.json`, by the rows of `names.keys`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.keys import Keys, described
from anamnesis.names.layers import of_full_layers
from anamnesis.names.rope import llama3_factors, proportional_factors
from anamnesis.names.settings import Settings
from anamnesis.names.sources import DERIVED, Derived
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue

Factors = tuple[tuple[str, tuple[float, ...]], ...]

_UINT32, _INT32, _FLOAT32, _BOOL = 4, 5, 6, 7
_FLOAT_KEYS = re.compile(
    r"(?!clip\.vision\.projector).*(?:epsilon|image_mean|image_std|freq_base(?:_swa)?|\.scale|_scale|softcapping|clamp_kqv|factor|multiplier|"
    r"alibi_bias|beta_\w+)$"
)
_TEXT_KEYS = re.compile(
    r"rope\.scaling\.type|classifier\.output_labels|tensor_data_layout|hidden_activation|clip\.(?:vision\.|audio\.)?projector_type"
)
_ABSOLUTE = ("diffusion.", "general.", "tokenizer.")
_NEEDED = ("block_count", "embedding_length")
# Without these factors attention turns by wrong angles within any context.
_WITH_FACTORS = ("llama3", "longrope", "proportional", "su")
WRITTEN = tuple(described())


def keys_of(name: str, where: str) -> Keys:
    """The row of a class; UnsupportedError lists those that are known."""
    found = described().get(name)
    if found is None:
        known = ", ".join(WRITTEN)
        raise UnsupportedError(
            f"{where}: the key/values of {name or 'no class'!r:.100} are not known; those of "
            f"{known} are. --names stored writes the tensors under the names they have"
        )
    return found


def architecture_values(
    keys: Keys, architecture: str, config: Mapping[str, Any], where: str
) -> dict[str, KeyValue]:
    """The key/values that `keys` makes of `config`, for a file of that GGUF architecture.

    Raises FormatError where the configuration lacks a size, or has another kind of value there, and
    UnsupportedError for a scaling of rotary embeddings that the architecture has no tensors for.
    """
    settings = Settings(config)
    if settings.scaling in _WITH_FACTORS and settings.scaling not in keys.factors:
        raise UnsupportedError(
            f"{where}: config.json: rope scaling {settings.scaling!r} needs a tensor of factors, "
            f"which llama.cpp's {architecture!r} does not have"
        )
    if _shares_indexers(settings):
        raise UnsupportedError(
            f"{where}: config.json: some layers share an indexer (indexer_types, index_topk_freq, "
            f"index_topk_pattern), and how a GGUF says so of {architecture!r} is not known here"
        )
    values = {"general.architecture": KeyValue(STRING, architecture)}
    for key, value in values_of(keys.sources, settings, where).items():
        values[key if key.startswith(_ABSOLUTE) else f"{architecture}.{key}"] = value
    for key in _NEEDED:
        if f"{architecture}.{key}" not in values:
            raise FormatError(f"{where}: config.json: found no {keys.sources[key]} for {key}")
    return values


def _shares_indexers(settings: Settings) -> bool:
    """Whether layers look at what an indexer before them found: GLM-5.2's."""
    kinds = settings.get("indexer_types") or settings.get("index_topk_pattern") or ()
    shared = any(kind in {"shared", "S"} for kind in kinds)
    return shared or (not kinds and (settings.get("index_topk_freq") or 1) != 1)


def values_of(
    sources: Mapping[str, str],
    settings: Settings,
    where: str,
    derived: Mapping[str, Derived] = DERIVED,
) -> dict[str, KeyValue]:
    """What each source says, typed as its key is; keys of which nothing is said are not there."""
    values = {}
    for key, source in sources.items():
        try:
            value = evaluate(source, settings, derived)
            if value is not None:
                values[key] = typed(key, value)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise FormatError(
                f"{where}: config.json: {key} cannot be made of {source!r}: {error}"
            ) from error
    return values


def evaluate(source: str, settings: Settings, derived: Mapping[str, Derived] = DERIVED) -> Any:
    """The first choice of a source that says something; None where none does."""
    if source.startswith("="):
        return json.loads(source[1:])
    for choice in re.split(r"\|(?=[\w@=])", source):
        found = _choice(choice, settings, derived)
        if found is not None:
            return found
    return None


def _choice(text: str, settings: Settings, derived: Mapping[str, Derived]) -> Any:
    if text.startswith("="):
        return json.loads(text[1:])
    if text.startswith("@"):
        name, _, arguments = text[1:].partition(":")
        return derived[name](settings, arguments)
    total: Any = None
    for product in text.split("+"):
        factors = [int(f) if f.isdigit() else settings.get(f) for f in product.split("*")]
        if any(factor is None for factor in factors):
            return None
        value = factors[0]
        for factor in factors[1:]:
            value = value * factor
        total = value if total is None else total + value
    return total


def typed(key: str, value: Any) -> KeyValue:
    """A value with the type that llama.cpp reads at `key`; TypeError for other kinds of values."""
    if isinstance(value, list) and value:
        items = [typed(key, item) for item in value]
        kinds = {item.type_id for item in items}
        if len(kinds) != 1:
            raise TypeError(f"found {value!r:.100}, numbers of several kinds")
        kind = kinds.pop()
        return KeyValue(ARRAY, [item.value for item in items], _INT32 if kind == _UINT32 else kind)
    if isinstance(value, bool):
        return KeyValue(_BOOL, value)
    if isinstance(value, str) and _TEXT_KEYS.fullmatch(key):
        return KeyValue(STRING, value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"found {value!r:.100}")
    if isinstance(value, float) or reads_float(key):
        return KeyValue(_FLOAT32, float(value))
    return KeyValue(_UINT32, int(value))


def reads_float(key: str) -> bool:
    """Whether llama.cpp reads a float32 at a key, which a whole number may stand for."""
    return _FLOAT_KEYS.fullmatch(key) is not None


def generated(keys: Keys, config: Mapping[str, Any], where: str) -> Factors:
    """Vectors that follow from the configuration: the factors of rotary embeddings' scaling."""
    settings = Settings(config)
    scaling = settings.rope
    if settings.scaling == "llama3" and "llama3" in keys.factors:
        try:
            base = float(scaling.get("rope_theta") or 10000.0)
            return (("rope_freqs.weight", llama3_factors(scaling, base, settings.width)),)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise FormatError(
                f"{where}: config.json: no factors follow from its rope scaling: {error}"
            ) from error
    if settings.scaling not in keys.factors:
        return ()
    if settings.scaling == "proportional":
        share = scaling.get("partial_rotary_factor", 1.0)
        width = of_full_layers(settings, "global_head_dim,head_dim") or settings.width
        return (("rope_freqs.weight", proportional_factors(width, share)),)
    found = []
    for kind in ("long", "short"):
        factors = scaling.get(f"{kind}_factor")
        if not isinstance(factors, list) or not all(isinstance(x, (int, float)) for x in factors):
            raise FormatError(f"{where}: config.json: no list of numbers in {kind}_factor")
        found.append((f"rope_factors_{kind}.weight", tuple(map(float, factors))))
    return tuple(found)
