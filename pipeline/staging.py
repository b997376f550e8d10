"""An output folder that is replaced: the new one is made beside it, whole, and then takes its name.

The new folder is `.NAME.anamnesis-new`, made as any output is, with a journal of its own, so that a
run which is stopped goes on where it was. When it is complete

1. the manifest of the old output is moved into the old folder,
2. the two folders change names (`writers.exchange`), each with its manifest inside,
3. the new manifest is moved to where the job wants it,
4. the old folder is removed: what its manifest lists, and nothing else.

A manifest inside of a folder counts before one beside it. So under the name of the output there is
at any time a whole folder, the old one or the new one, with the manifest that is its own.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path, PurePath

from anamnesis.errors import AnamnesisError, UsageError
from anamnesis.owned import sync_folder
from anamnesis.pipeline.incomplete import remove_recorded
from anamnesis.pipeline.journal import Journal, Recipe, load_manifest, manifest_path, recorded_name
from anamnesis.pipeline.place import listed
from anamnesis.pipeline.plan import Plan
from anamnesis.words import some
from anamnesis.writers.exchange import exchange, finish_exchange
from anamnesis.writers.part import remove_parts


def staging_folder(out: PurePath) -> Path:
    """Where the folder is made that is to replace `out`; beside what a link leads to."""
    real = Path(os.path.realpath(out))
    return real.with_name(f".{real.name}.anamnesis-new")


def staged(plan: Plan) -> Plan:
    """The same plan with its files in the staging folder, and the manifest inside."""
    folder = staging_folder(Path(plan.spec.path))
    files = tuple(replace(f, path=str(folder / Path(f.path).name)) for f in plan.layout.files)
    extras = tuple((str(folder / Path(name).name), data) for name, data in plan.layout.extras)
    return replace(
        plan,
        spec=replace(plan.spec, path=str(folder), manifest="inside"),
        layout=replace(plan.layout, files=files, extras=extras),
    )


def promote(plan: Plan, recipe: Recipe) -> None:
    """Give a complete staged folder the name of the output, and remove the one that had it."""
    out = Path(plan.spec.path)
    folder = staging_folder(out)
    real = Path(os.path.realpath(out))
    beside, inside = manifest_path(out), manifest_path(real, inside=True)
    if not os.path.lexists(inside):
        os.rename(beside, inside)
        sync_folder(real)
    exchange(folder, real)
    sync_folder(real.parent)
    settle(plan)
    clear(out, recipe)


def settle(plan: Plan) -> None:
    """Mend what a run left that was killed while a folder was replaced; the lock is held.

    A manifest goes back to where the job wants it.
    """
    out = Path(plan.spec.path)
    real = Path(os.path.realpath(out))
    finish_exchange(staging_folder(out), real)
    inside = manifest_path(real, inside=True)
    if plan.spec.manifest == "beside" and os.path.lexists(inside):
        with contextlib.suppress(AnamnesisError):  # one that is not ours stays, and is refused
            load_manifest(out)
            os.rename(inside, manifest_path(out))
            sync_folder(real)
            sync_folder(out.absolute().parent)
    elif os.path.lexists(inside):
        manifest_path(out).unlink(missing_ok=True)


def clear(out: PurePath, recipe: Recipe, keep: Recipe | None = None) -> None:
    """Remove a staging folder, but for one of the recipe `keep`: what was recorded of it.

    Raises UsageError when it holds anything else, which nobody but a stranger has put there.
    """
    folder = staging_folder(out)
    if not folder.is_dir() or folder.is_symlink():
        return
    journal = Journal(folder, recipe)
    names = [entry.name for entry in journal.entries()]
    with contextlib.suppress(AnamnesisError):
        manifest = load_manifest(folder)
        if keep is not None and manifest.recipe == (keep.inputs, keep.settings):
            return
        names += listed(manifest)
    if keep is not None and any(journal.knows(entry) for entry in journal.entries()):
        return
    remove_parts(folder)
    for name in os.listdir(folder):
        if recorded_name(name) in names:
            (folder / name).unlink()
    remove_recorded(folder, journal)
    manifest_path(folder, inside=True).unlink(missing_ok=True)
    left = sorted(os.listdir(folder))
    if left:
        raise UsageError(f"{folder}: is in use: {some(left)}; remove it and run again")
    folder.rmdir()
    sync_folder(folder.parent)


__all__ = ["clear", "promote", "settle", "staged", "staging_folder"]
