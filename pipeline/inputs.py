"""What a job reads and where each of it goes: patterns of folders, and pipelines of models."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anamnesis.errors import UsageError
from anamnesis.limits import Limits
from anamnesis.pipeline.alike import refuse_alike
from anamnesis.pipeline.companions import copy_companions
from anamnesis.pipeline.config import Settings
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.ollama import OLLAMA
from anamnesis.readers.paths import expand
from anamnesis.readers.pipelines import PIPELINE, components
from anamnesis.readers.source import is_url
from anamnesis.writers import WRITERS
from anamnesis.writers.stores import located, store_of


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A diffusers pipeline: the folder `source`, and the components in it that have no weights."""

    source: str
    out: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Models and their outputs, `(path, output)`, and the pipelines that some are parts of."""

    models: tuple[tuple[str, str], ...]
    pipelines: tuple[Pipeline, ...] = ()


def inputs_of(settings: Settings, limits: Limits) -> Inputs:
    """The models of a job: a glob that matches folders, and a pipeline, stand for several.

    One model goes to the output path itself, and each of several to a folder of its own below it;
    so do the components of each pipeline, in folders of their names. Raises UsageError, and what
    `components` raises.
    """
    sources = _sources(settings)
    outs = _outputs(settings, sources)
    models: list[tuple[str, str]] = []
    pipelines: list[Pipeline] = []
    for source, out in zip(sources, outs, strict=True):
        weights: list[str] = []
        others: list[str] = []
        if not is_url(source) and os.path.isdir(expand(source)):
            weights, others = components(LocalFolder(expand(source), limits.allow), limits)
        if not weights:
            models.append((source, out))
            continue
        _refuse_file(settings, out)
        models += [(os.path.join(source, name), os.path.join(out, name)) for name in weights]
        pipelines.append(Pipeline(expand(source), out, tuple(others)))
    refuse_alike(located(out) for _, out in models)
    return Inputs(tuple(models), tuple(pipelines))


def refuse_indexes(inputs: Inputs) -> None:
    """UsageError when a pipeline would go where another one is.

    The index is written last, so that one which is there beside all models is this one's.
    """
    for pipeline in inputs.pipelines:
        index = located(pipeline.out) / PIPELINE
        outs = [located(out) for _, out in inputs.models]
        outs = [out for out in outs if out.parent == index.parent]
        store = store_of(index)
        if store.exists(index) and not all(store.names(out) for out in outs):
            raise UsageError(f"{index}: is of another pipeline; --overwrite replaces it")


def copy_rest(pipeline: Pipeline, note: Callable[[str], None], limits: Limits) -> None:
    """Copy what a pipeline has besides its models: its index, scheduler, tokenisers."""
    for name in ("", *pipeline.others):
        source = os.path.join(pipeline.source, name)
        target = located(os.path.join(pipeline.out, name))
        if store_of(target).moves:
            Path(target).mkdir(parents=True, exist_ok=True)
        copy_companions(source, target, None, note, allow=limits.allow)


def _sources(settings: Settings) -> list[str]:
    sources: list[str] = []
    for source in settings.inputs:
        folders = []
        if glob.has_magic(source) and not os.path.lexists(source):
            folders = sorted(p for p in glob.glob(source) if os.path.isdir(p))
        sources += folders or [source]
    return sources


def _outputs(settings: Settings, sources: Sequence[str]) -> list[str]:
    """One output an input: the path itself, or a folder of its own below it."""
    if len(settings.inputs) == len(sources) == 1 and sources[0] == settings.inputs[0]:
        return [settings.path]
    base = located(settings.path)
    _refuse_file(settings, settings.path)
    names = [_stem(source) for source in sources]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(f"inputs: two of them would be written to {base / name}")
    return [str(base / name) for name in names]


def _refuse_file(settings: Settings, out: str) -> None:
    if Path(out).suffix == WRITERS[settings.format].suffix:
        raise UsageError(f"output.path: {out}: several inputs need a folder, not one file")


def _stem(source: str) -> str:
    if is_url(source):
        source = re.split("[?#]", source, maxsplit=1)[0].rstrip("/")
    elif source.startswith(OLLAMA):
        return re.sub("[/:]", "-", source.removeprefix(OLLAMA))
    path = Path(source)
    name = path.name if path.is_dir() else path.stem
    if any(c in name for c in "*?["):
        name = path.parent.name
    return name or "model"
