"""What is made of a model of which some shards cannot be read, and what becomes of it later.

It lies beside the output, in a folder `OUT.incomplete`, and can be taken for the whole model by
nobody: it has no index, no `config.json` and no manifest, and its run ends with an error. It keeps
its journal. When the shards are there and the job is run again, the files that the whole model
has as well are moved into it: those before the first shard that was missing, and behind it those
that begin with the same tensor again. The rest is made, and the folder removed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePath

import xxhash

from anamnesis.errors import FormatError
from anamnesis.owned import sync_folder
from anamnesis.pipeline.journal import Journal, Recipe, recorded_name
from anamnesis.pipeline.plan import Plan
from anamnesis.readers.source import public_name
from anamnesis.words import and_more
from anamnesis.writers.lock import OutputLock
from anamnesis.writers.stores import located, store_of


def incomplete_path(out: str) -> str:
    """Where the tensors go that can be had."""
    return out.rstrip("/") + ".incomplete"


def incomplete_error(plan: Plan) -> FormatError:
    """What the run of such a plan ends with."""
    broken = plan.model.broken
    listed = "; ".join(broken[:5]) + and_more(len(broken), 5, ";")
    count = f"{len(broken)} file{'s' * (len(broken) > 1)}"
    return FormatError(
        f"{plan.model.path}: {count} cannot be read: {listed}; {plan.spec.path} holds "
        f"{len(plan.items)} tensors of the others; replace what is broken and run again"
    )


def contents(plan: Plan) -> Mapping[str, str]:
    """By file name, a digest of all that the bytes of an output file follow from."""
    spec = asdict(replace(plan.spec, path="", manifest="beside"))
    inside: dict[int, list[object]] = {number: [] for number in range(len(plan.layout.files))}
    tensors = {tensor.name: tensor for tensor in plan.model.tensors}
    for number in plan.layout.order:
        item = plan.items[number]
        tensor = tensors[item.name]
        stored = [c.stored for c in tensor.components]
        parts = [[s.name, s.offset, s.nbytes] for s in stored]
        parts += [[public_name(s.file.path), s.file.size, s.file.mtime_ns] for s in stored]
        inside[plan.layout.places[number][0]].append(
            [asdict(item), tensor.encoding, sorted(tensor.params.items()), parts]
        )
    found = {}
    for number, file in enumerate(plan.layout.files):
        fixed = [[offset, data.hex()] for offset, data in file.fixed]
        text = json.dumps([spec, file.nbytes, fixed, inside[number]], sort_keys=True, default=str)
        found[recorded_name(file.path)] = xxhash.xxh3_128(text.encode()).hexdigest()
    return found


def clear_stale(plan: Plan, journal: Journal) -> None:
    """Before such a run: forget one of other shards or settings."""
    if any(not journal.knows(entry) for entry in journal.entries()):
        remove_recorded(located(plan.spec.path), journal)


def take_over(plan: Plan, out: PurePath, recipe: Recipe, journal: Journal) -> None:
    """Before the run of the whole model that goes to `out`: move what is the same into place.

    Every file is recorded before it is moved; the checksums are compared later, as of any file
    that an earlier run finished.
    """
    if not store_of(out).moves:
        return  # what is there is made again
    folder = Path(incomplete_path(str(out)))
    before = Journal(folder, recipe)
    if not folder.is_dir():
        return
    with OutputLock(folder):
        known = {entry.content: entry for entry in before.entries() if entry.content}
        wanted = contents(plan)
        for file in plan.layout.files:
            entry = known.get(wanted[recorded_name(file.path)])
            if entry is None or os.path.lexists(file.path):
                continue
            source = folder / Path(entry.name).name
            if source.is_file():
                journal.add({file.path: entry.pieces}, {file.path: entry.loss})
                os.rename(source, file.path)
                sync_folder(Path(file.path).parent)


def remove_incomplete(out: PurePath, recipe: Recipe) -> None:
    """After the run of the whole model that went to `out`: its parts are of no more use."""
    folder, store = located(incomplete_path(str(out))), store_of(out)
    if store.names(folder) or store.exists(folder):
        with store.lock(folder):
            remove_recorded(folder, Journal(folder, recipe))
    if store.moves:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def remove_recorded(folder: PurePath, journal: Journal) -> None:
    """Remove what the journal lists in `folder`, and the journal."""
    names, store = [Path(entry.name).name for entry in journal.entries()], store_of(folder)
    if store.names(folder):
        store.clear([folder / name for name in names], None, "")
        for name in names:
            store.remove(folder / name)
    journal.remove()
