"""A diffusers pipeline: a folder of models, one a component, named by `model_index.json`.

Layout: https://huggingface.co/docs/diffusers/using-diffusers/loading, `DiffusionPipeline`:
`{"_class_name": …, "unet": ["diffusers", "UNet2DConditionModel"], …}`; each component lies in the
folder of its name. Some (scheduler, tokeniser) have no weights.
"""

from __future__ import annotations

import os

from anamnesis.errors import SecurityError
from anamnesis.limits import Limits
from anamnesis.readers.choice import holds_weights
from anamnesis.readers.folder import Folder, LocalFolder
from anamnesis.readers.index import read_object
from anamnesis.readers.source import is_url

PIPELINE = "model_index.json"


def components(folder: Folder, limits: Limits) -> tuple[list[str], list[str]]:
    """The components whose folders hold weights, and those whose folders hold none.

    Empty when the folder is no pipeline. Raises FormatError, LimitError, OSError, SecurityError.
    """
    file = folder.open(PIPELINE)
    if file is None:
        return [], []
    with file:
        document = read_object(file, limits)
    weights: list[str] = []
    others: list[str] = []
    for name, value in document.items():
        if name.startswith("_") or not is_component(value):
            continue
        inner = _names(folder, name)
        if inner:
            (weights if holds_weights(inner) else others).append(name)
    return weights, others


def is_component(value: object) -> bool:
    """Whether a value of `model_index.json` is a component's: a library and a class."""
    return isinstance(value, list) and len(value) == 2


def pipeline_around(folder: Folder) -> Folder | None:
    """The folder that a component's lies in, if it is on this machine and has an index."""
    if is_url(folder.path):
        return None
    above = os.path.dirname(os.path.abspath(folder.path))
    return LocalFolder(above) if os.path.isfile(os.path.join(above, PIPELINE)) else None


def _names(folder: Folder, name: str) -> list[str]:
    """The files in a component's folder; none when there is no such folder, or none to list."""
    if is_url(folder.path):
        return []
    try:
        path = folder.join(name)
    except SecurityError:
        return []
    return LocalFolder(path).names() if os.path.isdir(path) else []


__all__ = ["PIPELINE", "components", "is_component", "pipeline_around"]
