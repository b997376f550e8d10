"""A GGUF model under Hugging Face's names: the tensors of a model folder, out of a GGUF's.

Nothing is read: tensors are renamed, cut and joined as records (`names.derived`), and the payload
goes through the windows of any other conversion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.arrange import Link, arrange
from anamnesis.names.derived import after_zeros
from anamnesis.names.facts import Facts
from anamnesis.names.families import families
from anamnesis.names.family import Family, Row
from anamnesis.names.incomplete import lacking
from anamnesis.names.listed import listed_tensors
from anamnesis.names.values import SCALED, VALUES, inverse
from anamnesis.readers.base import Dropped, Tensor
from anamnesis.readers.model import Model
from anamnesis.words import and_more

_NUMBER = re.compile(r"\d+")
# `IMG_ARCH_LIST` of https://github.com/city96/ComfyUI-GGUF, loader.py.
_IMAGES = frozenset(
    "aura cosmos flux hidream hyvid ltxv lumina2 qwen_image sd1 sd3 sdxl wan".split()
)
_MOST_EXPERTS = 1 << 14  # of a layer, each of which gets a name; models have some hundreds


@dataclass(frozen=True, slots=True)
class HfView:
    """A model under Hugging Face's names, and the family that gave them.

    `tied` says that the file has no output matrix: it is that of the embeddings.
    """

    model: Model
    family: Family
    tied: bool


def hf_view(model: Model, vision: Model | None = None) -> HfView:
    """The tensors of a Hugging Face folder, out of a GGUF (and the `mmproj` file beside it).

    Raises UnsupportedError for an architecture, or a tensor, that the table does not have, and
    FormatError where shapes or key/values contradict it.
    """
    family = family_of(model, tower=vision is not None)
    path, head = family.paths[0]
    rows = family.rows
    tensors = {t.name: t for t in (*model.tensors, *listed_tensors(model, family.arrays))}
    prefixes = {"": str(model.metadata.get("general.architecture", ""))}
    facts = [(model, tensors, rows, prefixes[""])]
    zeros = dict(family.zero_rows)
    if vision is not None:
        from anamnesis.names.config import class_of
        from anamnesis.names.vision import projector, whole

        tower = projector(vision)
        whole(tower, class_of(family, model), model, vision)
        path, head = tower.path, tower.head
        added = {t.name: t for t in vision.tensors}
        for name in added.keys() & tensors.keys():
            raise FormatError(f"{vision.path}: tensor {name!r:.200} is also in {model.path}")
        facts.append((vision, added, tower.rows, tower.facts_prefix))
        zeros |= tower.zero_rows
    links: list[Link] = []
    dropped: list[Dropped] = list(model.dropped)
    for source, names, table, prefix in facts:
        finder = _Finder(source, family.name, table, prefix, {"m": path, "h": head})
        for name, tensor in names.items():
            found = list(finder.links(tensor))
            links += found
            if not found:
                dropped.append(
                    Dropped(tensor.components[0].stored, "follows from the configuration")
                )
            tensors[name] = tensor
    zeros = {name.replace("{m}", path): rows for name, rows in zeros.items()}
    made = [
        after_zeros(t, zeros[t.name]) if t.name in zeros else t
        for t in arrange(links, tensors, "to-hf")
    ]
    halves = lacking(tuple(model.stored), model.metadata, family.some_layers)
    notes = [*model.notes, *family.notes, *halves, *_inexact(links)]
    files = model.files if vision is None else (*model.files, *vision.files)
    viewed = replace(
        model, tensors=tuple(made), dropped=tuple(dropped), notes=tuple(notes), files=files
    )
    return HfView(viewed, family, "output.weight" not in model.stored)


def family_of(model: Model, *, tower: bool = False) -> Family:
    """The row of a GGUF's architecture, with a `tower` beside it or without.

    UnsupportedError lists what is known.
    """
    if model.container != "gguf":
        raise UnsupportedError(
            f"{model.path}: is {model.container}; Hugging Face names are a view of GGUF files"
        )
    architecture = model.metadata.get("general.architecture")
    names = model.stored.keys()
    patterns = {re.sub(r"^((?:enc\.|dec\.)?blk)\.\d+\.", r"\1.0.", name) for name in names}
    words = model.metadata.get("tokenizer.ggml.model")
    left_out = ("to-gguf", "to-hf") if tower else ("to-gguf",)
    rows = [
        f
        for f in families()
        if architecture in f.gguf
        and f.only not in left_out
        and (not f.vocabularies or words in (None, *f.vocabularies))
    ]
    said = {key for key in model.metadata if key.startswith(f"{architecture}.")}
    for family in sorted(rows, key=lambda f: (f.only != "to-hf", -f.evidence)):
        if (
            patterns.issuperset(family.has)
            and not patterns.intersection(family.lacks)
            and said.issuperset(f"{architecture}.{key}" for key in family.said)
        ):
            return family
    if architecture in _IMAGES:
        raise UnsupportedError(
            f"{model.path}: {architecture!r} is a model of images, whose tensors have the names of "
            "the checkpoint that it was made of; --to safetensors (or --names stored) writes that "
            "checkpoint, as ComfyUI and from_single_file of diffusers read it"
        )
    raise UnsupportedError(
        f"{model.path}: architecture {architecture!r:.100} is not in the table of names "
        "(docs/gguf-and-hf.md); --names stored (or --to safetensors) writes the tensors under the "
        "names they have in the file"
    )


def has_products(model: Model) -> bool:
    """Whether a GGUF has numbers that were multiplied with some of `config.json`."""
    architecture = model.metadata.get("general.architecture")
    rows = (row for family in families() if architecture in family.gguf for row in family.rows)
    return any(row.value.startswith(SCALED) for row in rows)


class _Finder:
    """From GGUF names to links, by the rows of one table."""

    def __init__(
        self,
        model: Model,
        family: str,
        rows: Sequence[Row],
        prefix: str,
        paths: Mapping[str, str],
    ) -> None:
        self._model, self._family, self._prefix, self._paths = model, family, prefix, paths
        self._rows: dict[str, list[Row]] = {}
        for row in rows:
            key = _NUMBER.sub("#", re.sub(r"\{[a-z]\}", "#", row.gguf))
            self._rows.setdefault(key, []).append(row)

    def links(self, tensor: Tensor) -> Iterator[Link]:
        """The links that begin in a tensor; none where it has no counterpart.

        Raises UnsupportedError when no row has its name.
        """
        known = False
        for row in self._rows.get(_NUMBER.sub("#", tensor.name), ()):
            match = row.matcher.fullmatch(tensor.name)
            if match is None:
                continue
            known = True
            if row.hf:
                yield from self._expanded(row, tensor, match.groupdict())
        if not known:
            raise UnsupportedError(
                f"{self._model.path}: tensor {tensor.name!r:.200} is not in the table of "
                f"{self._family!r}; --names stored writes tensors under the names they have"
            )

    def _expanded(self, row: Row, tensor: Tensor, found: Mapping[str, Any]) -> Iterator[Link]:
        facts = Facts(self._model.metadata, int(found.get("i") or 0), self._prefix)
        name = row.hf
        for key, value in {**self._paths, **found, "k": facts.deepstack}.items():
            name = name.replace(f"{{{key}}}", str(value))
        if "{x}" not in name:
            yield Link(name, tensor.name, row.pattern, row.value, facts)
            return
        experts = tensor.shape[0] if tensor.shape else 0
        if experts > _MOST_EXPERTS:
            raise FormatError(
                f"{self._model.path}: tensor {tensor.name!r:.200}: found {experts:,} experts; "
                f"allowed: {_MOST_EXPERTS:,}"
            )
        for expert in range(experts):
            hf = name.replace("{x}", str(expert))
            yield Link(hf, tensor.name, row.pattern, row.value, facts)


def _inexact(links: Sequence[Link]) -> Iterator[str]:
    """One remark an operation whose way back is not exact."""
    for value in sorted({link.value for link in links if link.value}):
        names = [link.hf for link in links if link.value == value]
        back = inverse(value)
        why = VALUES[back].why if back else ""
        if why:
            yield (
                f"{names[0]}{and_more(len(names))}: {why}; BF16 and F16 numbers of 2^-13 or more "
                "come back exactly, smaller ones to 2^-24, float32 ones but for their last bits"
            )
