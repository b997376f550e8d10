"""An architecture family: one GGUF architecture, the Hugging Face classes of it, and its rows.

Rows are text, `GGUF  HUGGING-FACE  [OPERATION]`, one a line. `top` rows name tensors of the whole
model, `block` rows tensors of a layer: their names follow `blk.{i}.` and the family's `layers`.

- A name without `.weight` or `.bias` stands for both; one that ends in `!` is taken as it is.
- `{x}` is the number of an expert: one tensor each there, one stack in GGUF, unless both have it.
- `-` in place of a name: the tensor has no counterpart, it follows from the configuration.
- Several rows with one name on a side: the parts of that tensor, in their order.
- `{m}` is the path to the text model, `{h}` to its head; they differ inside multimodal models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from anamnesis.names.ops import operation
from anamnesis.names.pattern import Pattern, stacked

_SUFFIXES = (".weight", ".bias")

# Where a text model and its head are: alone, and inside of multimodal models.
PATHS = (
    ("model.", ""),
    ("language_model.model.", "language_model."),
    ("model.language_model.", ""),
    ("model.text_model.", ""),
)


@dataclass(frozen=True)
class Row:
    """One row: templates with `{i}`, `{x}`, `{m}`, `{h}`, and how the elements go over."""

    gguf: str
    hf: str  # "" where there is no counterpart
    pattern: Pattern
    value: str = ""

    @cached_property
    def matcher(self) -> re.Pattern[str]:
        """Full match of a GGUF name, with groups `i` and `x`."""
        return re.compile(_as_regex(self.gguf))


@dataclass(frozen=True)
class Family:
    """`architectures` are the classes that config.json names, the most usual one first.

    `has` and `lacks` are GGUF names (`blk.0.` for any layer) that tell it from other families of
    the same architecture, as do `said`, key/values after `ARCHITECTURE.`, and `vocabularies`, the
    kinds of vocabulary, if any. `paths` are what `{m}` and `{h}` may be, the usual ones first.
    `arrays` are key/values that hold tensors of one number, with the dimensions that these have:
    rows call them `KEY.{i}`. `zero_rows` are tensors whose first rows no GGUF has, and how many.
    Those `only` `to-gguf` are written alone: their files are read as another's, which computes the
    same. Those `to-hf` are read alone, where no tower lies beside the text model. `some_layers` are
    how names of tensors begin, after `blk.{i}.`, that not all layers have.
    """

    name: str
    gguf: tuple[str, ...]
    architectures: tuple[str, ...]
    top: str
    block: str = ""
    layers: str = "{m}layers.{i}."
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    paths: tuple[tuple[str, str], ...] = PATHS
    notes: tuple[str, ...] = field(default=())
    vocabularies: tuple[str, ...] = ()
    arrays: Mapping[str, int] = field(default_factory=dict)
    only: Literal["", "to-gguf", "to-hf"] = ""
    zero_rows: Mapping[str, int] = field(default_factory=dict)
    some_layers: tuple[str, ...] = ()

    @property
    def evidence(self) -> int:
        """How much tells it from other families of the same architecture."""
        return len(self.has) + len(self.lacks) + len(self.said)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows, those of layers with their full templates."""
        return (*rows_of(self.top, "", ""), *rows_of(self.block, "blk.{i}.", self.layers))


def rows_of(text: str, gguf_prefix: str, hf_prefix: str) -> Iterator[Row]:
    """The rows of a text, with prefixes before their names; ValueError for a bad operation."""
    for line in text.strip().splitlines():
        words = line.split(None, 2)
        if not words:
            continue
        gguf, hf = words[0], words[1]
        pattern, value = operation(words[2] if len(words) > 2 else "")
        if "{x}" in hf and "{x}" not in gguf:
            pattern = stacked(pattern)
        exact = gguf.endswith("!") or gguf.endswith(_SUFFIXES) or hf.endswith(("!", *_SUFFIXES))
        for suffix in ("",) if exact else _SUFFIXES:
            yield Row(
                gguf_prefix + gguf.rstrip("!") + suffix,
                "" if hf == "-" else hf_prefix + hf.rstrip("!") + suffix,
                pattern,
                value,
            )


def _as_regex(template: str) -> str:
    parts = re.split(r"\{([a-z])\}", template)
    out = ""
    seen = set()
    for number, part in enumerate(parts):
        if number % 2 == 0:
            out += re.escape(part)
        elif part in "mh":
            raise ValueError(f"{template}: a path in a GGUF name")
        else:
            out += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
            seen.add(part)
    return out
