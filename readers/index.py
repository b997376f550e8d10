"""The index of a sharded model: which shard holds which tensor.

Format: https://huggingface.co/docs/transformers/big_models#sharded-checkpoints: a JSON object
with `weight_map`, tensor names to file names in the same folder or below, and
`metadata.total_size`, the bytes of all tensors. The map selects: a shard may hold more than its
model, such as what another revision needs. `total_size` is only remarked on, since tools that
merge or tie weights leave it wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anamnesis.errors import FormatError, SecurityError
from anamnesis.limits import INDEX_BYTES, INDEX_ITEMS, SHARDS, Limits
from anamnesis.readers.base import Container
from anamnesis.readers.folder import Folder
from anamnesis.readers.source import SourceFile
from anamnesis.readers.strict_json import loads
from anamnesis.words import some

# Asked for, in this order, where nothing lists a folder.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NUMBERS = frozenset(("BF16", "BOOL", "C64", "F16", "F32", "F64", "I64", "U64"))  # hold no codes
_SHOWN, _CHARS = 8, 100


@dataclass(frozen=True, slots=True)
class Index:
    """What an index says: shard by tensor, the total size, and its other metadata."""

    path: str
    weight_map: Mapping[str, str]
    total_size: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> list[str]:
        """File names, each once, in the order of their first tensors."""
        return list(dict.fromkeys(self.weight_map.values()))


def read_index(file: SourceFile, folder: Folder, limits: Limits) -> Index:
    """Parse and check an index; every shard's name is checked before any is opened.

    Raises FormatError, LimitError, and SecurityError for a name that leaves the folder.
    """
    document = read_object(file, limits)
    weight_map = document.get("weight_map")
    where = f"{file.path}: weight_map"
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{where}: must be an object of tensor and file names")
    limits.items(len(weight_map), where, INDEX_ITEMS)
    for tensor, shard in weight_map.items():
        if type(shard) is not str:
            raise FormatError(f"{where}: {tensor!r:.200}: must be a file name, found {shard!r:.80}")
    metadata = document.get("metadata")
    more = metadata if isinstance(metadata, dict) else {}
    plain = {tensor: _without_dots(shard) for tensor, shard in weight_map.items()}
    index = Index(file.path, plain, more.get("total_size"), more)
    shards = index.shards
    limits.items(len(shards), f"{file.path}: shards", SHARDS)
    for shard in shards:
        try:
            folder.join(shard)
        except SecurityError as error:
            raise SecurityError(f"{where}: {error}") from None
    return index


def _without_dots(name: str) -> str:
    """A name without `./`, so that a file has one name."""
    if "./" not in name:
        return name
    return "/".join(part for part in name.split("/") if part != ".")


def read_object(file: SourceFile, limits: Limits, *, python: bool = False) -> dict[str, Any]:
    """A small JSON file that must be an object; of a configuration, as Python's own `json` reads.

    Raises FormatError or LimitError.
    """
    limits.alloc(file.size, file.path, INDEX_BYTES)
    document = loads(file.read(0, file.size), file.path, limits, python=python)
    if not isinstance(document, dict):
        raise FormatError(f"{file.path}: must be a JSON object, found {type(document).__name__}")
    return document


@dataclass(frozen=True, slots=True)
class Selection:
    """The tensors of each shard that are the model's, and remarks."""

    shards: dict[str, Container]
    notes: tuple[str, ...]


def select(index: Index, shards: Mapping[str, Container]) -> Selection:
    """Of those shards of an index that could be read, exactly the tensors of its `weight_map`.

    - One that is in another shard than the index says is taken from there when there is only one.
    - Codes bring the tensors along that stand beside them in their module, such as scales: an index
      from before the model was quantised does not know of them.
    - An index of which fewer than half the tensors are there is that of another model. Then the
      shards are taken whole, as transformers takes them.

    Whatever of this was done is said in `notes`; so is what is absent or left out.
    """
    holders: dict[str, list[str]] = {}
    for shard, container in shards.items():
        for name in container.stored:
            holders.setdefault(name, []).append(shard)
    places: dict[str, str] = {}
    moved: list[str] = []
    absent: list[str] = []
    for name, shard in index.weight_map.items():
        if shard not in shards:
            continue  # could not be read
        if name in shards[shard].stored:
            places[name] = shard
        elif len(holders.get(name, ())) == 1:
            places[name] = holders[name][0]
            moved.append(f"{name} ({places[name]})")
        else:
            absent.append(name)
    if len(absent) > len(places):
        names = some(absent, _SHOWN, _CHARS)
        text = f"is of another model ({names} in no file); the files are taken whole"
        return Selection(dict(shards), (f"{index.path}: the index {text}",))
    companions = _companions(places, shards)
    kept = {
        shard: _only(container, shard, places | companions) for shard, container in shards.items()
    }
    left = [name for name in holders if name not in places and name not in companions]
    notes = [
        f"{index.path}: {text} {some(names, _SHOWN, _CHARS)}"
        for text, names in (
            ("lists tensors that no file has:", absent),
            ("says another file for", moved),
            ("does not list these, which belong to codes and are taken:", list(companions)),
            ("does not list these, which are left out:", left),
        )
        if names
    ]
    return Selection(kept, (*notes, *_size_note(index, shards, kept)))


def _companions(places: Mapping[str, str], shards: Mapping[str, Container]) -> dict[str, str]:
    """Tensors beside selected ones that hold codes, in the same shard and module."""
    modules = {
        (shard, name.rpartition(".")[0])
        for name, shard in places.items()
        if "." in name and shards[shard].stored[name].dtype not in _NUMBERS
    }
    return {
        name: shard
        for shard, container in shards.items()
        for name in container.stored
        if name not in places and (shard, name.rpartition(".")[0]) in modules
    }


def _only(container: Container, shard: str, places: Mapping[str, str]) -> Container:
    stored = {name: s for name, s in container.stored.items() if places.get(name) == shard}
    return container if len(stored) == len(container.stored) else replace(container, stored=stored)


def _size_note(
    index: Index, shards: Mapping[str, Container], kept: Mapping[str, Container]
) -> tuple[str, ...]:
    held = sum(s.nbytes for c in kept.values() for s in c.stored.values())
    if index.total_size is None or index.total_size == held or len(shards) < len(index.shards):
        return ()
    return (
        f"{index.path}: metadata.total_size: says {index.total_size!r:.80}, the shards hold "
        f"{held:,} bytes; it is not used",
    )
