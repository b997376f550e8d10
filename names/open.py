"""Open a model under the names that the caller asked for."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from anamnesis.errors import UnsupportedError, UsageError
from anamnesis.limits import Limits
from anamnesis.readers.folder import folder_of
from anamnesis.readers.model import Model, load_model
from anamnesis.readers.schemes._conv1d import conv1d_of
from anamnesis.readers.schemes.base import Options
from anamnesis.readers.source import is_url


def open_named(
    path: str,
    options: Options | None = None,
    limits: Limits | None = None,
    *,
    keep_going: bool = False,
) -> Model:
    """What `path` means, with its tensors under `options.names`.

    `stored` are the names of the file. `hf` are Hugging Face's: those of a GGUF change, with the
    vision tower of the one `mmproj` file that lies beside it, if the table knows its projector and
    all of its tensors; other containers have them already. Matrices that were quantised
    transposed come as their class keeps them. Raises what `load_model` and `hf_view` raise.
    """
    options, limits = options or Options(), limits or Limits()
    model = load_model(path, options, limits, keep_going=keep_going)
    if model.transposed:
        return _as_the_class(model)
    if options.names == "stored" or model.container != "gguf":
        return model
    from anamnesis.names.view import hf_view

    vision, notes = _vision(model, options, limits)
    try:
        viewed = hf_view(model, vision).model
    except UnsupportedError as error:
        if vision is None or vision.path not in str(error):
            raise
        viewed = hf_view(model).model
        notes = (f"the vision tower is left out: {error}",)
    conv1d = conv1d_of(str(model.metadata.get("general.architecture")), viewed.tensors)
    return replace(viewed, notes=(*viewed.notes, *notes), conv1d=conv1d)


def _as_the_class(model: Model) -> Model:
    """The model with those matrices that its class keeps transposed as that has them."""
    from anamnesis.names.derived import transposed

    tensors = (transposed(t) if t.name in model.transposed else t for t in model.tensors)
    return replace(model, tensors=tuple(tensors), transposed=frozenset())


def _vision(model: Model, options: Options, limits: Limits) -> tuple[Model | None, tuple[str, ...]]:
    """The vision tower that lies beside a text model, and remarks."""
    if model.metadata.get("general.architecture") == "clip":
        raise UsageError(
            f"{model.path}: is the vision tower of a model; open the model itself, and the tower "
            "beside it comes along"
        )
    first = model.files[0].path
    folder = folder_of(first)
    names: list[str] = []
    if folder is not None:
        with suppress(OSError):  # that of a URL cannot be listed
            names = folder.names()
    names = [n for n in names if n.lower().endswith(".gguf") and "mmproj" in n.lower()]
    if folder is None or not names:
        return None, ()
    if len(names) > 1:
        listed = ", ".join(names)
        return None, (f"{folder.path}: {listed}: more than one vision tower; none is taken",)
    path = folder.join(names[0]) if is_url(first) else os.path.join(folder.path, names[0])
    return load_model(path, options, limits), (f"{path}: the vision tower comes along",)
