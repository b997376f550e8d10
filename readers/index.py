"""The index of a sharded model: which shard holds which tensor.

Format: https://huggingface.co/docs/transformers/big_models#sharded-checkpoints: a JSON object
with `weight_map`, tensor names to file names in the same folder, and `metadata.total_size`, the
bytes of all tensors. Index and shards must tell the same; `total_size` is only remarked on, since
tools that merge or tie weights leave it wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, SecurityError
from anamnesis.limits import INDEX_BYTES, INDEX_ITEMS, SHARDS, Limits
from anamnesis.readers.base import Container
from anamnesis.readers.folder import Folder
from anamnesis.readers.source import SourceFile
from anamnesis.readers.strict_json import loads

# Tried first, in this order; then the only name with such an ending.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ENDINGS = (".safetensors.index.json", ".bin.index.json")


@dataclass(frozen=True, slots=True)
class Index:
    """What an index says: shard by tensor, and whatever stands for the total size."""

    path: str
    weight_map: Mapping[str, str]
    total_size: Any = None

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
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    index = Index(file.path, weight_map, total)
    shards = index.shards
    limits.items(len(shards), f"{file.path}: shards", SHARDS)
    for shard in shards:
        try:
            folder.join(shard)
        except SecurityError as error:
            raise SecurityError(f"{where}: {error}") from None
    return index


def read_object(file: SourceFile, limits: Limits) -> dict[str, Any]:
    """A small JSON file that must be an object, such as an index or a configuration."""
    limits.alloc(file.size, file.path, INDEX_BYTES)
    document = loads(file.read(0, file.size), file.path, limits)
    if not isinstance(document, dict):
        raise FormatError(f"{file.path}: must be a JSON object, found {type(document).__name__}")
    return document


def check_index(index: Index, shards: Mapping[str, Container]) -> tuple[str, ...]:
    """Hold an index against those of its shards that could be read; returns remarks.

    Raises FormatError when a tensor is not where the index says, or is not in the index.
    """
    for tensor, shard in index.weight_map.items():
        if shard in shards and tensor not in shards[shard].stored:
            raise FormatError(
                f"{index.path}: weight_map: lists tensor {tensor!r:.200} in {shard}, which has no "
                "such tensor"
            )
    for shard, container in shards.items():
        for tensor in container.stored:
            listed = index.weight_map.get(tensor)
            if listed != shard:
                where = "does not list it" if listed is None else f"says it is in {listed}"
                raise FormatError(
                    f"{container.files[0].path}: tensor {tensor!r:.200}: {index.path} {where}"
                )
    held = sum(s.nbytes for c in shards.values() for s in c.stored.values())
    if index.total_size is None or index.total_size == held or len(shards) < len(index.shards):
        return ()
    return (
        f"{index.path}: metadata.total_size: says {index.total_size!r:.80}, the shards hold "
        f"{held:,} bytes; it is not used",
    )
