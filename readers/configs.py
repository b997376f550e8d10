"""The files beside the weights that say how they were quantised: JSON, and YAML for its words.

Each is a hint, and none is required. One that cannot be read is no reason to refuse a model that
needs none: a container that describes itself, or tensors that are all understood without it. But
it may name a method, so that codes which nobody decoded are then refused with what is wrong in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import AnamnesisError, FormatError
from anamnesis.limits import Limits
from anamnesis.readers.folder import Folder
from anamnesis.readers.index import read_object
from anamnesis.readers.pipelines import PIPELINE, is_component, pipeline_around
from anamnesis.readers.schemes._stated import FILES, OTHER_BYTES, is_settings, may_state, speaks
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.settings_files import is_json, is_unread, is_yaml, parse
from anamnesis.readers.together import together
from anamnesis.readers.yaml_values import MOST_BYTES, MOST_FILES

# These say by themselves what each tensor is, or hold what was never a Hugging Face model's.
_NEED_NONE = frozenset(("arrow", "gguf", "npy", "npz", "pth"))
_OTHERS = 256  # files that are not known for stating a method, and are asked
_LISTED = "components_to_quantize"  # of diffusers' PipelineQuantizationConfig
_DEPTH = 32  # as deep as JSON is read
_UNLISTED = ("generation_config.json",)  # asked for where nothing lists a folder
_PLAIN = frozenset(("BF16", "BOOL", "C64", "F16", "F32", "F64", "I64", "U64"))


@dataclass(slots=True)
class Configs:
    """Those that could be read, by file name, and the errors of the others."""

    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    broken: list[FormatError] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # remarks on files that need not be read

    def settle(self, ledger: Ledger, resolve: Callable[[Ledger], None]) -> None:
        """Resolve the model; raise the first broken file's error if it might have mattered."""
        if self.broken and ledger.container.kind not in _NEED_NONE:
            raise self.broken[0]
        try:
            resolve(ledger)
        except AnamnesisError:
            if self.broken and ledger.container.kind != "gguf":
                raise self.broken[0] from None
            raise
        if self.broken and ledger.container.kind != "gguf":
            for tensor in ledger.tensors.values():
                plain = tensor.quantised or tensor.out_dtype in _PLAIN or len(tensor.shape) < 2
                if not plain:
                    raise self.broken[0]

    def notes(self) -> tuple[str, ...]:
        """Remarks on files that were not used."""
        return (*(f"{error}; it is not used" for error in self.broken), *self.unread)


def read_configs(folder: Folder | None, limits: Limits) -> Configs:
    """Read the configurations of a folder; raises LimitError, OSError and SecurityError."""
    configs = Configs()
    if folder is None:
        return configs
    names = folder.names()
    likely = (*FILES, *(n for n in names if n not in FILES and speaks(n) and is_json(n)))
    for name, found in _read_each(folder, likely, limits):
        if isinstance(found, FormatError):
            configs.broken.append(found)
        elif isinstance(found, Exception):
            raise found
        elif found is not None:
            configs.found[name] = found
    _read_others(configs, folder, [n for n in names or _UNLISTED if may_state(n)], limits)
    _read_speaking(configs, folder, [n for n in names if speaks(n) and not is_json(n)], limits)
    _read_yaml(configs, folder, [n for n in names if is_yaml(n) and not speaks(n)], limits)
    configs.unread += (
        f"{folder.path}: {n}: by its name about quantisation, in a spelling that is not read; if a "
        "method is named in it, that was not heeded"
        for n in names
        if is_unread(n)
    )
    _read_pipeline(configs, folder, limits)
    return configs


def _read_pipeline(configs: Configs, folder: Folder, limits: Limits) -> None:
    """What the pipeline around a component says of it, in files that the component has not.

    These are small, lie beside the `model_index.json` that names the component, and are remarked
    on if they cannot be read.
    """
    around = pipeline_around(folder)
    names = around.names() if around is not None else []
    asked = [n for n in names if (may_state(n) or speaks(n)) and n not in configs.found][:_OTHERS]
    if around is None or PIPELINE not in names:
        return
    found = dict(_read_each(around, [PIPELINE, *asked], limits, OTHER_BYTES))
    index = found[PIPELINE]
    mine = os.path.basename(os.path.abspath(folder.path))
    if not isinstance(index, Mapping) or not is_component(index.get(mine)):
        return
    others = {name for name, value in index.items() if is_component(value)} - {mine}
    for name, document in found.items():
        if isinstance(document, Mapping):
            configs.found.setdefault(name, _about(document, mine, others, 0))
        elif document is not None:
            configs.unread.append(f"{document}; it is not used")


def _about(value: Any, mine: str, others: Collection[str], depth: int) -> Any:
    """A document without what it says of other components than `mine`, whose own goes up."""
    if not isinstance(value, Mapping) or depth > _DEPTH:
        return value
    listed = value.get(_LISTED)
    if isinstance(listed, list) and mine not in listed:
        return {}
    kept = {k: _about(v, mine, others, depth + 1) for k, v in value.items() if k not in others}
    own = kept.get(mine)
    return {**kept, **own} if isinstance(own, Mapping) else kept


def _read_speaking(configs: Configs, folder: Folder, names: list[str], limits: Limits) -> None:
    """What is called after quantisation, in YAML and TOML."""
    for name, found in _read_each(folder, names[:_OTHERS], limits, OTHER_BYTES):
        if isinstance(found, Mapping):
            configs.found[name] = found
        else:
            why = found or f"{folder.path}: {name}: over {OTHER_BYTES:,} bytes, or no file"
            configs.unread.append(f"{why}; it is not used")


def _read_yaml(configs: Configs, folder: Folder, names: list[str], limits: Limits) -> None:
    """What trainers and quantisers leave, for its words; many have templates in them."""
    for name, found in _read_each(folder, names[:MOST_FILES], limits, MOST_BYTES):
        if isinstance(found, Mapping):
            configs.found[name] = found


def _read_others(configs: Configs, folder: Folder, names: list[str], limits: Limits) -> None:
    """What nobody expects to state a method, and may: settings first, each if it is small.

    None of them is a reason to refuse a model. Those that hold settings and cannot be read are
    remarked on.
    """
    names = [n for n in names if n not in FILES and not speaks(n)]
    names.sort(key=lambda name: (not is_settings(name), name))
    if len(names) > _OTHERS:
        more = f"{len(names):,} JSON files; only the first {_OTHERS} were asked for a method"
        configs.unread.append(f"{folder.path}: {more}")
    for name, found in _read_each(folder, names[:_OTHERS], limits, OTHER_BYTES):
        if isinstance(found, Exception):
            if is_settings(name):
                configs.unread.append(f"{found}; it is not used")
        elif found is not None:
            configs.found[name] = found


def _read_each(
    folder: Folder, names: Sequence[str], limits: Limits, most_bytes: int | None = None
) -> Iterator[tuple[str, Mapping[str, Any] | AnamnesisError | OSError | None]]:
    """Each file's object, the error that reading it raises, or None for none, or a larger one."""

    def read(name: str) -> Mapping[str, Any] | AnamnesisError | OSError | None:
        try:
            file = folder.open(name)
            if file is None:
                return None
            with file:
                if most_bytes is not None and file.size > most_bytes:
                    return None
                if is_json(name):
                    return read_object(file, limits, python=True)
                return parse(file.read(0, file.size), file.path)
        except (AnamnesisError, OSError) as error:
            return error

    yield from zip(names, together(folder.path, read, names), strict=True)


__all__ = ["Configs", "read_configs"]
