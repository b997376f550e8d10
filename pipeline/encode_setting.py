"""What `output.encode` says: a name, `NAME:KEY=VALUE,…`, one of llama.cpp's mixtures, or rules.

Names are those of the table of encoders; a wrong word is told the nearest one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated

from msgspec import Meta, Struct

from anamnesis.errors import UsageError
from anamnesis.kernels.encoders import ENCODERS, Key, Setting
from anamnesis.pipeline.mixtures import MIXTURES
from anamnesis.pipeline.targets import Encode, Rule, Target, shown
from anamnesis.readers.gguf_types import encoding_of
from anamnesis.readers.imatrix_entry import Imatrix
from anamnesis.words import bare, did_you_mean, meant

_LISTED = 24  # names that a message lists beside the nearest one


class EncodeRule(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"target": "as"}
):
    """Which tensors become what."""

    tensors: Annotated[str, Meta(min_length=1, description="A shell pattern on their names.")]
    target: Annotated[
        str, Meta(min_length=1, description="NAME, or NAME:KEY=VALUE,…: docs/encoding.md has them.")
    ]


def parse_target(
    text: str, where: str = "--encode", form: str = "safetensors", also: Collection[str] = ()
) -> Target:
    """The target that `NAME[:KEY=VALUE,…]` names in a format of output.

    In a GGUF, where only ggml's types can be, `q4-k`, `Q4_K` and `gguf-q4-k` are one. Raises
    UsageError with the nearest valid name; `also` are other names that are valid at the place.
    """
    name, _, rest = text.partition(":")
    known = names_for(form)
    if form == "gguf":
        name = "gguf-" + name.lower().replace("_", "-").removeprefix("gguf-")
    if name not in known:
        hint = _of_gguf(text, form) + _nearest(name, [*also, *known])
        raise UsageError(f"{where}: found {text!r}; {hint}")
    keys = ENCODERS[name].keys
    settings = {key: row.default for key, row in keys.items()}
    stated = set()
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if key in stated:
            raise UsageError(f"{where}: {name}: {key} is given twice")
        if key not in keys:
            allowed = _nearest(key, keys) if keys else f"{name} has no settings"
            raise UsageError(f"{where}: {name}: found {key!r}; {allowed}")
        if not equals:
            raise UsageError(f"{where}: {name}: found {pair!r}; allowed: KEY=VALUE")
        settings[key] = _value(f"{where}: {name}: {key}", value, keys[key])
        stated.add(key)
    return Target(name, settings, frozenset(stated))


def _of_gguf(text: str, form: str) -> str:
    """What to say of a target that is one in a GGUF alone; or is one, and not in a GGUF."""
    name = text.partition(":")[0].lower().replace("_", "-")
    if form == "gguf":
        return f"{name} is for other formats, and not for a GGUF; " if name in ENCODERS else ""
    if name in ENCODERS and not name.startswith("gguf-"):
        return ""
    ggml = bare(name) in map(bare, [*MIXTURES, *names_for("gguf")])
    return f"{name} is for a GGUF (--to gguf); " if ggml else ""


def names_for(form: str) -> list[str]:
    """The targets that a format of output can hold."""
    return [name for name in ENCODERS if name.startswith("gguf-") == (form == "gguf")]


def parse_encode(
    value: str | Sequence[EncodeRule] | None,
    where: str,
    form: str = "safetensors",
    *,
    requantize: bool = False,
    skip_loss: bool = False,
    imatrix: Imatrix | None = None,
) -> Encode | None:
    """What `output.encode` means in a format of output; None for nothing."""
    if value is None:
        return None
    base = Encode(requantize=requantize, skip_loss=skip_loss, imatrix=imatrix)
    if isinstance(value, str):
        mixture = value.upper().replace("-", "_")
        known = MIXTURES if form == "gguf" else ()
        # A type that has the name of a mixture is meant in lower case.
        if mixture in known and (value == mixture or encoding_of(mixture) not in ENCODERS):
            usual = Target(encoding_of(MIXTURES[mixture].usual), {})
            return replace(base, target=usual, mixture=mixture)
        return replace(base, target=parse_target(value, where, form, known))
    rules = [
        Rule(rule.tensors, parse_target(rule.target, f"{where}[{number}].as", form))
        for number, rule in enumerate(value)
    ]
    return replace(base, rules=tuple(rules))


def _value(where: str, text: str, key: Key) -> Setting:
    value: Setting = text
    if isinstance(key.default, bool):
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise UsageError(f"{where}: found {text!r}; allowed: true, false")
        value = words[text.lower()]
    elif isinstance(key.default, int):
        if not text.isdecimal() or len(text) > 9 or not key.holds(int(text)):
            raise UsageError(f"{where}: found {text!r}; allowed: {key.numbers}")
        value = int(text)
    if key.allowed and value not in key.allowed:
        allowed = ", ".join(shown(choice) for choice in key.allowed)
        raise UsageError(f"{where}: found {text!r}; allowed: {allowed}")
    return value


def _nearest(text: str, names: Collection[str]) -> str:
    """What is nearest to a wrong name, and the valid ones, unless they are too many to read."""
    hint = did_you_mean(meant(text, list(names)))
    if hint and len(names) > _LISTED:
        return f"{hint} docs/encoding.md has all names"
    return f"{hint}{' ' if hint else ''}allowed: {', '.join(names)}"
