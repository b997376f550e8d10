"""A single output file beside other weights: refused where a loader would take it for theirs.

A folder with a `config.json`, or one that is the input, is a model's. What of it the model is, is
decided by names (`readers.choice`). So a new file in it may neither join the files that are the
model now, nor come before them.
"""

from __future__ import annotations

import os
from pathlib import Path

from anamnesis.errors import AnamnesisError, UsageError
from anamnesis.limits import NOTHING, Allow, Limits
from anamnesis.readers.choice import choose
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.index import Index, read_index

_CONFIG = "config.json"


def refuse_joining(out: str, source: str, allow: Allow = NOTHING) -> None:
    """UsageError for a file that would become part of, or hide, the model of its folder.

    `source` is the input; the folder is its, or has a configuration of its own. A file of that name
    that is there already counts as absent.
    """
    folder, name = Path(out).parent, Path(out).name
    if f"{name}.index.json" in _names(folder):
        raise UsageError(
            f"{out}: would be loaded in place of the model that {out}.index.json describes; choose "
            "another folder or name"
        )
    names = [other for other in _names(folder) if other != name]
    is_input = os.path.isdir(source) and folder.is_dir() and os.path.samefile(folder, source)
    if not is_input and _CONFIG not in names:
        return
    now, then = _chosen(folder, names, allow), _chosen(folder, sorted((*names, name)), allow)
    if now and now != then:
        raise UsageError(
            f"{out}: would be loaded with, or in place of, the model that is in {folder} "
            f"({', '.join(now[:3])}{', …' if len(now) > 3 else ''}); choose another folder or name"
        )


def _names(folder: Path) -> list[str]:
    try:
        return LocalFolder(str(folder)).names()
    except OSError:  # it is not there yet
        return []


def _chosen(folder: Path, names: list[str], allow: Allow) -> tuple[str, ...]:
    """The files of a folder's model; none where there is no model, or it is not clear which."""
    place = LocalFolder(str(folder), allow)

    def read(name: str) -> Index:
        file = place.open(name)
        if file is None:
            raise UsageError(f"{name}: is gone")
        with file:
            return read_index(file, place, Limits())

    try:
        choice = choose(place.path, names, read)
    except (AnamnesisError, OSError):
        return ()
    return (os.path.basename(choice.index.path), *choice.names) if choice.index else choice.names


__all__ = ["refuse_joining"]
