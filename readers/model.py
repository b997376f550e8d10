"""A path to a model: which files it means, what they hold, and which tensors come out."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from anamnesis.errors import FormatError, LimitError, SecurityError, UnsupportedError, UsageError
from anamnesis.limits import INDEX_BYTES, SHARDS, Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container, Dropped, FileId, Stored, Tensor
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger, Options
from anamnesis.readers.source import LocalFile
from anamnesis.readers.strict_json import loads

# JSON files that say how a checkpoint was quantised; each is a hint, none is required.
CONFIGS = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "params.json",
)
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
# In a folder without an index, the first pattern that matches names the weights.
_WEIGHTS = ("model*.safetensors", "*model*.safetensors", "*.safetensors", "*.gguf")


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its headers tell it: nothing of the payload has been read."""

    path: str
    container: str
    files: tuple[FileId, ...]
    stored: Mapping[str, Stored]
    tensors: tuple[Tensor, ...]
    dropped: tuple[Dropped, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def select(self, include: Sequence[str], exclude: Sequence[str]) -> Model:
        """The same model with only the tensors whose names match (shell patterns)."""
        kept = tuple(
            t
            for t in self.tensors
            if any(fnmatchcase(t.name, p) for p in include)
            and not any(fnmatchcase(t.name, p) for p in exclude)
        )
        return replace(self, tensors=kept)


def load_model(path: str, options: Options | None = None, limits: Limits | None = None) -> Model:
    """Open the file, folder or glob `path` and resolve its tensors.

    Raises FileNotFoundError, FormatError, UnsupportedError, LimitError or SecurityError.
    """
    limits = limits or Limits()
    paths = find_files(path, limits)
    containers = [open_container(p, limits) for p in paths]
    merged = _merge(containers)
    limits.items(len(merged.stored), f"{path}: stored tensors")
    ledger = Ledger(merged, _read_configs(Path(paths[0]).parent, limits), options or Options())
    resolve(ledger)
    rank = {name: number for number, name in enumerate(merged.stored)}
    tensors = sorted(ledger.tensors.values(), key=lambda t: rank[t.components[0].stored.name])
    return Model(
        path=path,
        container=merged.kind,
        files=merged.files,
        stored=merged.stored,
        tensors=tuple(tensors),
        dropped=tuple(ledger.dropped),
        metadata=merged.metadata,
    )


def find_files(path: str, limits: Limits) -> list[str]:
    """The weight files that `path` means: itself, a folder's shards, or what a glob matches."""
    if "://" in path or path.startswith("ollama:"):
        raise UnsupportedError(f"{path}: remote and ollama: sources are not implemented")
    if os.path.isdir(path):
        return _in_folder(Path(path), limits)
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(glob.glob(path))
        if not found:
            raise FileNotFoundError(2, "no file matches", path)
        return found
    return [path]


def _in_folder(folder: Path, limits: Limits) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return _from_index(folder, index, limits)
    for pattern in _WEIGHTS:
        found = sorted(str(p) for p in folder.glob(pattern) if not p.name.startswith("."))
        if found:
            return _one_gguf(folder, found) if pattern == "*.gguf" else found
    raise FormatError(f"{folder}: no weights found (looked for {', '.join(_WEIGHTS)})")


def _one_gguf(folder: Path, found: list[str]) -> list[str]:
    first = [f for f in found if not _LATER_PART.search(os.path.basename(f))]
    if len(first) != 1:
        raise UsageError(f"{folder}: holds {len(first)} GGUF models; name one of them")
    return first


def _from_index(folder: Path, index: Path, limits: Limits) -> list[str]:
    document = _read_json(index, limits)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(f"{index}: weight_map: expected an object of tensor and file names")
    names = dict.fromkeys(weight_map.values())
    if len(names) > SHARDS:
        raise LimitError(
            f"{index}: names {len(names):,} shards, the fixed limit is {SHARDS:,}",
            limit="shards",
            need=len(names),
            have=SHARDS,
        )
    for name in names:
        if not isinstance(name, str) or not name or name != os.path.basename(name) or "\0" in name:
            raise SecurityError(f"{index}: weight_map: {name!r} is not a file name in this folder")
        if name in (".", ".."):
            raise SecurityError(f"{index}: weight_map: {name!r} leaves the folder")
    return [str(folder / name) for name in names]


def _merge(containers: Sequence[Container]) -> Container:
    first = containers[0]
    if len(containers) == 1:
        return first
    stored: dict[str, Stored] = {}
    for container in containers:
        if container.kind != first.kind:
            raise FormatError(
                f"{container.files[0].path}: is {container.kind}, the files before are {first.kind}"
            )
        for name, entry in container.stored.items():
            if name in stored:
                raise FormatError(
                    f"{entry.file.path}: tensor {name!r} is also in {stored[name].file.path}"
                )
            stored[name] = entry
    files = tuple(f for c in containers for f in c.files)
    return Container(first.kind, files, stored, first.metadata)


def _read_configs(folder: Path, limits: Limits) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name in CONFIGS:
        path = folder / name
        if path.is_file():
            found[name] = _read_json(path, limits)
    return found


def _read_json(path: Path, limits: Limits) -> dict[str, Any]:
    with LocalFile(path) as file:
        limits.alloc(file.size, str(path), INDEX_BYTES)
        document = loads(file.read(0, file.size), str(path), limits)
    if not isinstance(document, dict):
        raise FormatError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document
