"""A path to a model: what its files hold, and which tensors come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from anamnesis.errors import FormatError, UsageError
from anamnesis.limits import NOTHING, Allow, Limits
from anamnesis.readers.base import Container, Dropped, FileId, Member, Stored, Tensor
from anamnesis.readers.configs import read_configs
from anamnesis.readers.find import find_files
from anamnesis.readers.gc_pause import gc_paused
from anamnesis.readers.index import select
from anamnesis.readers.paths import expand
from anamnesis.readers.patterns import require_matches
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger, Options
from anamnesis.readers.shards import open_all, without_parts
from anamnesis.readers.source import base_name


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its headers tell it: nothing of the payload has been read.

    `members` are the archive entries whose CRC-32 must hold; `notes` are remarks for the user.
    `broken` says of each file that could not be read why; its tensors are not among these.
    `unread` are names of what was left out, which patterns may fit. `conv1d` are matrices that the
    model's class keeps with their columns as rows, and `transposed` those of them that are stored
    the other way; these tensors are as they are stored. `folder` is the folder that `path` names,
    or its URL; "" for a file, a pattern, or an Ollama name.
    """

    path: str
    container: str
    files: tuple[FileId, ...]
    stored: Mapping[str, Stored]
    tensors: tuple[Tensor, ...]
    dropped: tuple[Dropped, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    members: tuple[Member, ...] = ()
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    allow: Allow = NOTHING
    unread: tuple[str, ...] = ()
    index: str = ""  # path of the index by which the files were found
    transposed: frozenset[str] = frozenset()
    conv1d: frozenset[str] = frozenset()
    folder: str = ""

    def select(
        self, include: Sequence[str], exclude: Sequence[str], *, every: bool = True
    ) -> Model:
        """The same model with only the tensors whose names match (shell patterns).

        Archive entries that only the others need are left out as well. Raises UsageError when no
        tensor is left and, with `every`, for a pattern that fits no tensor.
        """
        if every:
            require_matches(
                [*(t.name for t in self.tensors), *self.unread], (*include, *exclude), self.path
            )
        if list(include) == ["*"] and not exclude:
            return self
        kept = tuple(
            t
            for t in self.tensors
            if any(fnmatchcase(t.name, p) for p in include)
            and not any(fnmatchcase(t.name, p) for p in exclude)
        )
        if self.tensors and not kept:
            texts = [f"include {' '.join(include)}", *(f"exclude {p}" for p in exclude)]
            raise UsageError(f"{self.path}: {', '.join(texts)}: no tensor is left")
        names = {t.name for t in kept}
        unused = _members(t for t in self.tensors if t.name not in names) - _members(kept)
        members = tuple(m for m in self.members if m not in unused)
        return replace(self, tensors=kept, members=members)


def load_model(
    path: str,
    options: Options | None = None,
    limits: Limits | None = None,
    *,
    keep_going: bool = False,
) -> Model:
    """Open what `path` means (see `find`) and resolve its tensors.

    With `keep_going`, shards of an index that cannot be read are left out, and with them every
    tensor of which they may hold a part; `Model.broken` names them.

    Raises OSError, FormatError, UnsupportedError, LimitError, SecurityError, UsageError or
    IntegrityError.
    """
    with gc_paused():
        return _load_model(path, options or Options(), limits or Limits(), keep_going)


def _load_model(path: str, options: Options, limits: Limits, keep_going: bool) -> Model:
    path = expand(path)
    found = find_files(path, limits)
    containers, broken = open_all(path, found, limits, keep_going)
    names = dict(zip(found.paths, found.index.shards, strict=True)) if found.index else {}
    notes = found.notes
    if found.index:
        chosen = select(found.index, {names[p]: c for p, c in containers.items()})
        containers = {p: chosen.shards[names[p]] for p in containers}
        notes += chosen.notes
    merged = _merge(list(containers.values()))
    if found.index and broken:
        missing = [names[p] for p in found.paths if p not in containers]
        merged = replace(merged, stored=without_parts(merged.stored, found.index, missing))
        # A scale that is missing may be in a shard that is.
        options = replace(options, assume_unit_scale=False)
    configs = read_configs(found.folder, limits)
    if found.index and found.index.metadata:
        configs.found[base_name(found.index.path)] = found.index.metadata
    ledger = Ledger(merged, configs.found, options)
    configs.settle(ledger, resolve)
    ledger.settle()
    tensors = list(ledger.tensors.values())
    in_order = iter(merged.stored)  # each `in` goes on behind the name that the last one found
    if not all(tensor.components[0].stored.name in in_order for tensor in tensors):
        rank = {name: number for number, name in enumerate(merged.stored)}
        tensors.sort(key=lambda t: rank[t.components[0].stored.name])
    return Model(
        path=path,
        container=merged.kind,
        files=merged.files,
        stored=merged.stored,
        tensors=tuple(tensors),
        dropped=tuple(ledger.dropped),
        metadata=merged.metadata,
        options=options,
        members=merged.members,
        notes=(*notes, *configs.notes(), *merged.notes, *ledger.notes),
        broken=broken,
        allow=limits.allow,
        unread=merged.unread,
        index=found.index.path if found.index else "",
        transposed=ledger.transposed,
        conv1d=ledger.conv1d,
        folder=found.folder.path if found.folder is not None and found.whole else "",
    )


def _merge(containers: Sequence[Container]) -> Container:
    if containers[0].kind == "arrow":
        from anamnesis.readers.arrow import check_parts  # noqa: PLC0415 - for Arrow alone

        containers = check_parts(containers)
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
                    f"{entry.file.path}: tensor {name!r} is also in {stored[name].file.path}; the "
                    "files of a folder, or that a pattern matches, are parts of one model: name "
                    "several models one by one"
                )
            stored[name] = entry
    return Container(
        kind=first.kind,
        files=tuple(f for c in containers for f in c.files),
        stored=stored,
        metadata=_metadata(containers),
        members=tuple(m for c in containers for m in c.members),
        notes=tuple(n for c in containers for n in c.notes),
        values={name: value for c in containers for name, value in c.values.items()},
        unread=tuple(name for c in containers for name in c.unread),
    )


def _metadata(containers: Sequence[Container]) -> Mapping[str, Any]:
    """That of the first file; of safetensors, what only others say besides.

    GGUF's is settings of its reader, which may differ by file.
    """
    if containers[0].kind != "safetensors":
        return containers[0].metadata
    merged: dict[str, Any] = {}
    for container in containers:
        merged = {**container.metadata, **merged}
    return merged


def _members(tensors: Iterable[Tensor]) -> set[Member]:
    views = (c.stored.view for t in tensors for c in t.components)
    return {v.member for v in views if v is not None and v.member is not None}
