"""A kind of vision tower, as data: its rows, and the classes of models that have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from anamnesis.names.family import Row, rows_of


@dataclass(frozen=True)
class Tower:
    """One kind of projector; `path` and `head` are where its models have text model and head.

    `texts` has the class of the whole by that of the text model, `said` the key/values
    and `has` the tensors that tell it from others with its projector, which come after it.
    Those `only` `to-gguf` are written alone: their files are read as another's. `zero_rows` are
    tensors whose first rows no GGUF has, and how many, `patches` those that are stored as the
    convolutions of an image are. `token_rows` are tensors that are a row of the text model's
    embeddings: that of a token.
    """

    projectors: tuple[str, ...]  # clip.projector_type
    texts: Mapping[str, str]
    top: str
    block: str
    layers: str
    path: str
    head: str = ""
    facts_prefix: str = "clip.vision"
    others: tuple[str, ...] = ()  # classes with the same tower, and the same text model
    said: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    keys: str = ""  # what a GGUF says of it; rows as in `names.keys`, over `settings_of`
    token_rows: Mapping[str, str] = field(default_factory=dict)
    half: str = ""  # a tensor that is float16 whatever the others are
    single: tuple[str, ...] = ("v.position_embd.weight",)  # those that are float32; `*` is any text
    patches: tuple[str, ...] = ()
    zero_rows: Mapping[str, int] = field(default_factory=dict)
    only: Literal["", "to-gguf"] = ""

    @property
    def architecture(self) -> str:
        """The most usual class that has this tower."""
        return next(iter(self.texts.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """All that have this tower, the most usual one first."""
        return tuple(dict.fromkeys((self.architecture, *self.others, *self.texts.values())))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows, those of layers with their full templates."""
        return (*rows_of(self.top, "", ""), *rows_of(self.block, "v.blk.{i}.", self.layers))
