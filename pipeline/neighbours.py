"""A single output file beside other weights: refused where a loader would take it for theirs.

A folder with a `config.json`, or one that is the input, is a model's. What of it the model is, is
decided by names (`readers.choice`). So a new file in it may neither join the files that are the
model now, nor come before them.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from anamnesis.errors import AnamnesisError, UsageError
from anamnesis.limits import NOTHING, Allow, Limits
from anamnesis.pipeline.journal import load_manifest
from anamnesis.readers.choice import choose
from anamnesis.readers.folder import Folder, LocalFolder, RemoteFolder
from anamnesis.readers.index import Index, read_index
from anamnesis.readers.paths import output_path
from anamnesis.readers.source import is_url, public_name
from anamnesis.writers.stores import StorePath, located, store_of

_CONFIG = "config.json"


def refuse_joining(out: str, source: str, allow: Allow = NOTHING) -> None:
    """UsageError for a file that would become part of, or hide, the model of its folder.

    `source` is the input; the folder is its, or has a configuration of its own. A file of that name
    that is there already counts as absent.
    """
    target = located(out)
    folder, name = target.parent, target.name
    if f"{name}.index.json" in _names(folder):
        raise UsageError(
            f"{out}: would be loaded in place of the model that {out}.index.json describes; choose "
            "another folder or name"
        )
    _refuse_in_output(out, folder, name)
    names = [other for other in _names(folder) if other != name]
    if not _is_input(folder, source) and _CONFIG not in names:
        return
    now, then = _chosen(folder, names, allow), _chosen(folder, sorted((*names, name)), allow)
    if now and now != then:
        raise UsageError(
            f"{out}: would be loaded with, or in place of, the model that is in {folder} "
            f"({', '.join(now[:3])}{', …' if len(now) > 3 else ''}); choose another folder or name"
        )


def _refuse_in_output(out: str, folder: PurePath, name: str) -> None:
    """UsageError for weights in a folder that is an output, where nobody may add any."""
    try:
        manifest = load_manifest(located(output_path(str(folder))))
    except (AnamnesisError, OSError):  # there is none, or none that counts
        return
    if name not in [*(file for file, _ in manifest.files), *manifest.others]:
        raise UsageError(
            f"{out}: {folder} is an output of this program, and would hold weights that its "
            "manifest does not list; choose another folder"
        )


def _is_input(folder: PurePath, source: str) -> bool:
    if isinstance(folder, StorePath) or is_url(source):
        return is_url(source) and located(public_name(source)) == folder
    return os.path.isdir(source) and os.path.isdir(folder) and os.path.samefile(folder, source)


def _names(folder: PurePath) -> list[str]:
    try:
        return [n for n in store_of(folder).names(folder) if not n.startswith(".")]
    except OSError:  # it is not there yet
        return []


def _chosen(folder: PurePath, names: list[str], allow: Allow) -> tuple[str, ...]:
    """The files of a folder's model; none where there is no model, or it is not clear which."""
    remote = isinstance(folder, StorePath)
    place: Folder = RemoteFolder(str(folder)) if remote else LocalFolder(str(folder), allow)

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
