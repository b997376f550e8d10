"""Whose files lie where an output is to go: nobody's, this program's, or another's.

A folder that gets a second model beside the first is loaded wrongly in silence: transformers takes
`model.safetensors` before the index of new shards. So an output folder is empty, or this program's
own: what its manifest lists, or the journal of a run that was stopped. Anything else is refused by
name, and never removed. And an output folder never lies in, on or around the folder of an input,
the configuration of which it would replace by its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.pipeline.alike import refuse_alike
from anamnesis.pipeline.companions import companions, is_weights
from anamnesis.pipeline.journal import (
    MANIFEST_NAME,
    Journal,
    Recipe,
    is_folder,
    load_manifest,
    recorded_name,
)
from anamnesis.pipeline.neighbours import refuse_joining
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.records import Manifest
from anamnesis.readers.choice import INDEX_NAME
from anamnesis.readers.source import is_url, public_name
from anamnesis.words import some
from anamnesis.writers import WRITERS
from anamnesis.writers.part import is_part
from anamnesis.writers.stores import located, store_of

# Bytes of `..anamnesis-new.anamnesis.journal` (34) and `..anamnesis.json.XXXXXXXX.part` (30).
_LONGER = 36


@dataclass(frozen=True, slots=True)
class Place:
    """An output's place as a run finds it; the caller holds the output's lock.

    `manifest` is that of a complete output that is there, or None; `owned` are the names in the
    folder that are this program's.
    """

    plan: Plan
    recipe: Recipe
    manifest: Manifest | None
    owned: frozenset[str]
    strangers: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan, recipe: Recipe, journal: Journal) -> Place:
        """Look at the place of a plan's output."""
        out = located(plan.spec.path)
        manifest, damaged = None, False
        try:
            manifest = load_manifest(out)
        except (FormatError, IntegrityError):
            damaged = True
        except UsageError:  # there is none
            pass
        if not is_folder(plan):
            return cls(plan, recipe, manifest, frozenset(), ())
        owned = set(listed(manifest)) if manifest else set()
        if store_of(out).exists(journal.path):
            damaged = True  # or cut, which cannot be told from short
            with contextlib.suppress(FormatError):
                owned |= {entry.name for entry in journal.entries()}
        if damaged:  # they are this program's, and say no longer of what
            owned |= {recorded_name(path) for path in planned(plan)}
        if owned:
            owned.add(MANIFEST_NAME)
        return cls(plan, recipe, manifest, frozenset(owned), tuple(_strangers(out, owned)))

    @property
    def complete(self) -> bool:
        """Whether a complete output of this very recipe is there."""
        return self.manifest is not None and self._is_recipe(self.manifest)

    @property
    def other(self) -> bool:
        """Whether a complete folder of another output is there, or of this one once more."""
        out = located(self.plan.spec.path)
        if self.manifest is None or not is_folder(self.plan):
            return False
        return any(store_of(out).exists(out / name) for name in listed(self.manifest))

    def check(self, overwrite: bool) -> None:
        """Raise UsageError for what is in the way, by name.

        Of a complete output of this very recipe, which is only to be checked again, files that
        no library takes for weights are let be.
        """
        names = list(self.strangers)
        if self.complete and not overwrite:
            names = [name for name in names if is_weights(name)]
        out = self.plan.spec.path
        if is_folder(self.plan):
            refuse_alike(planned(self.plan))
        else:
            refuse_joining(out, self.plan.model.path, self.plan.model.allow)
        if names:
            raise UsageError(
                f"{out}: is in use: {some(names)} {'is' if len(names) == 1 else 'are'} not of an "
                "output of this program; choose an empty folder, or remove what is there"
            )
        if self.other and not self.complete and not overwrite:
            raise UsageError(
                f"{out}: exists already, with another output; pass --overwrite "
                "(output.overwrite) to replace it"
            )
        if self.other and overwrite and store_of(out).moves and os.path.ismount(out):
            raise UsageError(
                f"{out}: is a mount point, and cannot be replaced as a whole; choose a folder in it"
            )

    def _is_recipe(self, document: Manifest) -> bool:
        return document.recipe == (self.recipe.inputs, self.recipe.settings)


def others(plan: Plan) -> list[str]:
    """The names of what a run writes besides tensors and the manifest: an index, companions."""
    names = [Path(name).name for name, _ in plan.layout.extras]
    if is_model_folder(plan):
        names += [c.name for c in companions(plan.model.folder, plan.model.allow)]
    return names


def planned(plan: Plan) -> Iterator[PurePath]:
    """The final paths of every file that a run writes, but for the manifest."""
    yield from (located(file.path) for file in plan.layout.files)
    yield from (located(plan.spec.path) / name for name in others(plan))


def is_model_folder(plan: Plan) -> bool:
    """Whether a folder goes in and a folder comes out that model libraries load."""
    row = WRITERS[plan.spec.format]
    folder_out = Path(plan.spec.path).suffix != row.suffix
    loaded = plan.spec.format in ("safetensors", "hf")
    return loaded and folder_out and bool(plan.model.folder)


def listed(manifest: Manifest) -> list[str]:
    """The names that a manifest lists: files with tensors, and the others."""
    names = [name for name, _ in manifest.files]
    return [Path(name).name for name in (*names, *manifest.others)]


def inherit(journal: Journal, place: Place) -> None:
    """Know what is there for this program's until it is gone: of the output, and of other jobs."""
    names = set(listed(place.manifest)) if place.manifest is not None else set()
    with contextlib.suppress(FormatError):
        entries = list(journal.entries())
        if not all(map(journal.knows, entries)):
            names |= {entry.name for entry in entries}
            journal.remove()
    if names:
        journal.add({name: [] for name in sorted(names)})


def refuse_foreign_weights(out: PurePath) -> None:
    """IntegrityError for weights in an output folder that its manifest does not list.

    And for files beside the weights that it lists and that are gone.

    Raises what `load_manifest` raises, too.
    """
    manifest = load_manifest(out, strangers=True)
    missing = [name for name in manifest.others if not store_of(out).exists(out / name)]
    if missing:
        lacks = "is missing, which" if len(missing) == 1 else "are missing, which"
        raise IntegrityError(f"{out}: {some(missing)} {lacks} the manifest lists")
    names = [name for name in _strangers(out, listed(manifest)) if is_weights(name)]
    if names:
        raise IntegrityError(
            f"{out}: holds {some(names)}, which the manifest does not list; a library may load "
            "that instead of what was written"
        )


def refuse_input_folders(out: str, sources: Sequence[str]) -> None:
    """UsageError for an output folder that is, lies in or lies around the folder of an input.

    Folders are compared as the file system knows them, so that links, mounts and names in other
    case make no difference.
    """
    target = located(out)
    if not store_of(target).moves:
        _refuse_around(target, sources)
        return
    place = list(_existing(Path(out)))
    for source in sources:
        folder = Path(source)
        if INDEX_NAME.fullmatch(source) and folder.is_file():
            folder = folder.parent
        if not folder.is_dir():
            continue
        ours = os.stat(folder)
        above = [os.stat(path) for path in _existing(Path(os.path.realpath(folder)))]
        for path in place:
            if os.path.samestat(os.stat(path), ours):
                where = "is" if path == Path(out).absolute() else "lies in"
                raise UsageError(f"{out}: {where} the input {source}; choose another output")
        if Path(out).is_dir() and any(os.path.samestat(os.stat(out), s) for s in above):
            raise UsageError(f"{out}: the input {source} lies in it; choose another output")


def refuse_no_folder(out: str, *, is_file: bool) -> None:
    """UsageError where a file, or a link to nothing, is in the place of the folder to write to."""
    if not store_of(located(out)).moves:
        return
    folder = Path(out).parent if is_file else Path(out)
    for path in (folder, *folder.parents):
        if path.is_dir():
            _refuse_long(out, path)
            return
        if os.path.lexists(path):
            link = path.is_symlink()
            what = f"a link to {os.readlink(path)}, where nothing is" if link else "a file"
            subject = "" if path == Path(out) else f"{path} "
            raise UsageError(f"{out}: {subject}is {what}, and no folder; choose another output")


def _refuse_long(out: str, above: Path) -> None:
    """UsageError for a name beside which the file system has no room for ours."""
    nbytes, most = len(os.fsencode(Path(out).name)), os.pathconf(above, "PC_NAME_MAX") - _LONGER
    if nbytes > most:
        raise UsageError(
            f"{out}: its name has {nbytes:,} bytes; allowed: {most:,}, since files beside it are "
            "called after it; choose a shorter one"
        )


def _refuse_around(out: PurePath, sources: Sequence[str]) -> None:
    """The same where folders are no more than the beginnings of names."""
    for source in filter(is_url, sources):
        folder = located(public_name(source))
        folder = folder.parent if folder.suffix else folder
        if out == folder or out in folder.parents or folder in out.parents:
            raise UsageError(f"{out}: is, lies in or around the input {source}; choose another")


def _existing(path: Path) -> Iterator[Path]:
    """A path and the folders above it, as far as they exist; links are followed."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    real = Path(os.path.realpath(path))
    yield path
    yield from (real, *real.parents)


def _strangers(folder: PurePath, owned: Iterable[str]) -> Iterator[str]:
    known = set(owned)
    for name in store_of(folder).names(folder):
        if recorded_name(name) not in known and not is_part(name):
            yield name


__all__ = [
    "Place",
    "inherit",
    "is_model_folder",
    "listed",
    "others",
    "planned",
    "refuse_foreign_weights",
]
