"""Which vision tower an `mmproj` file holds, and whether it is that of the text model beside it.

What `config.json` says of them is in `names.vision_config`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.names.tower import Tower
from anamnesis.names.tower_rows import READ
from anamnesis.readers.model import Model


def projector(model: Model) -> Tower:
    """The row of a vision file's projector; UnsupportedError lists what is known."""
    return tower_of(model.metadata, model.stored, model.path)


def tower_of(metadata: Mapping[str, Any], names: Container[str], path: str) -> Tower:
    """The row of the projector that a file's key/values name; `names` are its tensors'."""
    kind = metadata.get("clip.projector_type") or metadata.get("clip.vision.projector_type")
    for tower in READ:
        alike = metadata.keys() >= set(tower.said) and all(name in names for name in tower.has)
        if kind in tower.projectors and alike:
            return tower
    known = ", ".join(dict.fromkeys(name for tower in READ for name in tower.projectors))
    raise UnsupportedError(
        f"{path}: projector {kind!r:.100} is not in the table of names; known are {known}"
    )


def whole(tower: Tower, text: str, model: Model, vision: Model) -> str:
    """The class of a model whose text model is of the class `text`.

    Raises UnsupportedError for a tower that is another model's: of another class, or with a
    projector that no side of the text model's width has.
    """
    found = tower.texts.get(text)
    if found is None:
        raise UnsupportedError(
            f"{vision.path}: is the tower of {tower.architecture}; {model.path} is of {text}"
        )
    width = model.metadata.get(f"{model.metadata.get('general.architecture')}.embedding_length")
    widths = {size for n, s in vision.stored.items() if n.startswith("mm.") for size in s.shape}
    stated = vision.metadata.get("clip.vision.projection_dim", width)
    if width is not None and width != stated and width not in widths:
        raise UnsupportedError(
            f"{vision.path}: its projector is for a text model of another width than {width}, "
            f"which {model.path} has"
        )
    return found
