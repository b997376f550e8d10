"""Run a plan: lock the output, skip what is done, run the tasks, give final names, record it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePath

from anamnesis import owned, stopping
from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.kernels import compiling
from anamnesis.pipeline.alike import folded
from anamnesis.pipeline.companions import copy_companions
from anamnesis.pipeline.disk import refuse_over_disk
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.executors import Options, executor, receipts_of
from anamnesis.pipeline.incomplete import (
    clear_stale,
    contents,
    remove_incomplete,
    remove_recorded,
    take_over,
)
from anamnesis.pipeline.journal import (
    Journal,
    Recipe,
    find_manifest,
    intact,
    is_folder,
    load_manifest,
    manifest_path,
    recorded,
    recorded_loss,
    recorded_name,
    write_manifest,
)
from anamnesis.pipeline.loss import Losses, TensorLoss
from anamnesis.pipeline.members import check_members
from anamnesis.pipeline.outcome import Outcome
from anamnesis.pipeline.place import Place, inherit, is_model_folder, listed, others, planned
from anamnesis.pipeline.plan import Plan, decoded_dtype
from anamnesis.pipeline.progress import Progress
from anamnesis.pipeline.quant_config import config_blocks
from anamnesis.pipeline.records import Pieces
from anamnesis.pipeline.staging import clear, promote, settle, staged
from anamnesis.pipeline.work import WriteTask
from anamnesis.pipeline.writing import OutputFiles
from anamnesis.readers.files import Files
from anamnesis.writers.part import check_final
from anamnesis.writers.stores import located, store_of


def run_plan(
    plan: Plan,
    execute: str,
    options: Options,
    progress: Progress,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> Outcome:
    """Make the files of a plan. On any error, or an interrupt, unfinished files are removed.

    With `resume`, files that an earlier run of the same recipe finished are kept when their
    checksums hold. Raises the first error of any file, after the others are done.
    """
    stopping.check()
    begin = time.perf_counter()
    out = located(plan.spec.path)
    store = store_of(out)
    recipe = Recipe.of(plan)
    _refuse_inputs(plan)
    if is_model_folder(plan):
        config_blocks(plan.choices, "")  # which refuses what no loader takes
    created = store.make_folders([out.parent])
    try:
        with store.lock(out, progress.note):
            made = _begin(plan, recipe, overwrite)
            created += store.make_folders([located(f.path).parent for f in made.layout.files])
            run = _Run(made, out, recipe, progress)
            outcome = run.run(execute, options, overwrite, resume or made is not plan)
            if made is not plan:
                promote(plan, recipe)
    except BaseException:
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        owned.settle(*created)
        progress.close()
    seconds = time.perf_counter() - begin
    return Outcome(
        path=str(out),
        files=tuple(f.path for f in plan.layout.files),
        tensors=len(plan.items),
        read_bytes=sum(r.read_bytes for r in outcome.receipts),
        out_bytes=sum(r.work_bytes for r in outcome.receipts),
        seconds=seconds,
        resumed=len(plan.layout.files) - len(outcome.written),
        loss=lost(outcome),
    )


def check_place(plan: Plan, overwrite: bool) -> None:
    """Raise UsageError for what `run_plan` would find in the way of its output; nothing changes."""
    recipe = Recipe.of(plan)
    _refuse_inputs(plan)
    journal = Journal(located(plan.spec.path), recipe)
    place = Place.of(plan, recipe, journal)
    place.check(overwrite)
    _refuse_over_disk(plan, place, overwrite)
    if not is_folder(plan):
        ours = not overwrite and (place.complete or journal.finished())
        if not ours:
            check_final(located(plan.spec.path), overwrite)


def _begin(plan: Plan, recipe: Recipe, overwrite: bool) -> Plan:
    """Look at what is there, and say where to write: the plan itself, or the staged one.

    Raises UsageError for what is in the way.
    """
    out = located(plan.spec.path)
    store, journal = store_of(out), Journal(out, recipe)
    if is_folder(plan) and store.moves:
        settle(plan)
    place = Place.of(plan, recipe, journal)
    place.check(overwrite)
    if not is_folder(plan):
        return plan
    _refuse_over_disk(plan, place, overwrite)
    if not store.moves:
        if overwrite:
            inherit(journal, place)
        return plan
    if place.other and overwrite:
        clear(out, recipe, keep=recipe)
        return staged(plan)
    clear(out, recipe)
    if overwrite:
        with contextlib.suppress(FormatError):
            if any(not journal.knows(entry) for entry in journal.entries()):
                remove_recorded(out, journal)  # of another job, or of other inputs
    return plan


def _refuse_over_disk(plan: Plan, place: Place, overwrite: bool) -> None:
    """LimitError when what is whole before an old folder goes does not fit on the disk."""
    moves = store_of(plan.spec.path).moves
    if is_folder(plan) and overwrite and (place.other if moves else plan.spec.staging):
        refuse_over_disk(plan.spec.path, plan.disk_bytes, plan.disk_limit, plan.out_bytes)


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a plan, the files of which may be staged; the output is to be at `out` then."""

    plan: Plan
    out: PurePath
    recipe: Recipe
    progress: Progress

    def run(self, execute: str, options: Options, overwrite: bool, resume: bool) -> OutputFiles:
        """Make what is not done, and complete the output."""
        plan, recipe = self.plan, self.recipe
        whole = not plan.model.broken
        out, store = located(plan.spec.path), store_of(plan.spec.path)
        journal = Journal(out, recipe, None if whole else contents(plan))
        if not whole:
            resume = True
            clear_stale(plan, journal)
        elif resume:
            take_over(plan, self.out, recipe, journal)
        replaces = overwrite and not self._is_staged  # what is complete counts for nothing
        done = _done_before(plan, recipe, journal, replaces) if resume else {}
        if not resume:
            journal.remove()
        finals = [manifest_path(out), *planned(plan)]
        made = {located(plan.layout.files[number].path) for number in done}
        if made:  # of which a run that was killed may have left what it no longer needed
            store.clear([path for path in finals if path in made], None, "")
        finals = [path for path in finals if path not in made]
        store.clear(finals, out if is_folder(plan) else None, recipe.digest)
        # Nothing gets its final name before the checksums of the archive it came from hold.
        archived = bool(plan.model.members)
        # Where folders cannot be exchanged, the old output is whole until all of the new one is.
        hold = archived or (replaces and not store.moves)
        stale = self._stale(replaces)
        files = OutputFiles(plan, self.progress, journal, hold=hold, stale=stale, run=recipe.digest)
        try:
            names = [str(self._final(f.path)) for f in plan.layout.files]
            sizes = [f.nbytes for f in plan.layout.files]
            self.progress.start(plan.out_bytes, list(zip(names, sizes, strict=True)))
            tasks = files.open(done, overwrite=overwrite)
            if plan.choices:
                files.loss.update(_lost_before(plan, recipe, journal, done))
            if files.written and done:
                self._enter(journal, files, done)
            with compiling(_compile_note(self.progress)):
                tasks = _with_statistics(tasks, plan.tasks, execute, options, self.progress)
                executor(execute)(tasks, options, files)
            if hold and files.written and not files.failures:
                if archived:
                    _check_members(plan, files)
                files.release()
            files.finish()
            if files.failures:
                raise next(iter(files.failures.values()))
            if whole:
                self._complete(journal, files)
            if files.written and not store.moves:
                with contextlib.suppress(OSError):  # what was on its way when a worker was lost
                    store.clear(finals, None, "")
        except BaseException:
            files.discard()
            with contextlib.suppress(OSError):
                store.clear(finals, None, "")  # what an earlier run has left, too
            if not self._leaves(journal):
                journal.remove()
            raise
        return files

    def _enter(self, journal: Journal, files: OutputFiles, done: dict[int, Pieces]) -> None:
        """Have the journal know files that are done, which only a manifest may know of."""
        paths = {number: self.plan.layout.files[number].path for number in done}
        loss = {path: files.loss.get(number, ()) for number, path in paths.items()}
        journal.add({path: done[number] for number, path in paths.items()}, loss)

    @property
    def _is_staged(self) -> bool:
        return located(self.plan.spec.path) != self.out

    def _stale(self, replaces: bool) -> list[PurePath]:
        """What says that another output is whole, which ends with the first file that is replaced.

        A manifest; and where folders cannot be exchanged, what a library finds its files by: an
        index, a configuration.
        """
        if not replaces and recorded(self.plan, self.recipe):
            return []
        out = located(self.plan.spec.path)
        found = [find_manifest(out)]
        if replaces and not store_of(out).moves and is_folder(self.plan):
            with contextlib.suppress(UsageError, FormatError, IntegrityError):
                found += [out / Path(name).name for name in load_manifest(out).others]
        return found

    def _final(self, path: str) -> PurePath:
        return self.out / PurePath(path).name if self._is_staged else located(path)

    def _before(self, journal: Journal) -> set[str]:
        """The names of what earlier runs have left in the folder, by the journal and a manifest."""
        if not is_folder(self.plan):
            return set()
        names = {entry.name for entry in journal.entries()}
        with contextlib.suppress(UsageError, FormatError, IntegrityError):
            names |= set(listed(load_manifest(located(self.plan.spec.path))))
        return names

    def _leaves(self, journal: Journal) -> bool:
        """Whether files are there that nothing but the journal tells to be this program's."""
        out, store = located(self.plan.spec.path), store_of(self.plan.spec.path)
        if any(store.exists(located(f.path)) for f in self.plan.layout.files):
            return True
        if store.moves or store.exists(find_manifest(out)):
            return False
        return any(store.exists(out / name) for name in self._before(journal))

    def _complete(self, journal: Journal, files: OutputFiles) -> None:
        """Write what says that an output is whole, when all of its files are."""
        plan, folder = self.plan, located(self.plan.spec.path)
        names, store = [Path(name).name for name, _ in plan.layout.extras], store_of(folder)
        before = self._before(journal)
        shards = {recorded_name(file.path) for file in plan.layout.files}
        if known := before.union(others(plan)) - shards:  # for ours, after a kill too
            journal.add({name: [] for name in sorted(known)})
        for name, data in plan.layout.extras:
            store.write(located(name), [data])
        if is_model_folder(plan):
            dtype = decoded_dtype(plan.model, plan.spec)
            note, allow = files.note, plan.model.allow
            names += copy_companions(plan.model.folder, folder, dtype, note, plan.choices, allow)
        write_manifest(plan, self.recipe, files.pieces, names, lost(files))
        kept = set(map(folded, shards.union(names)))  # which may be there in another case
        gone = {name for name in before if folded(name) not in kept}  # of an older output or input
        for name in store.names(folder) if gone else ():
            if recorded_name(name) in gone:
                store.remove(folder / name)
        journal.remove()
        remove_incomplete(self.out, self.recipe)


def _with_statistics(
    tasks: list[WriteTask],
    every: Sequence[WriteTask],
    execute: str,
    options: Options,
    progress: Progress,
) -> list[WriteTask]:
    """The first pass, where an encoder asks for it, of `every` task; raises its first error."""
    if not any(isinstance(piece, EncodedPiece) for task in tasks for piece in task.pieces):
        return tasks
    from anamnesis.pipeline.statistics import statistics_tasks, with_statistics

    first = statistics_tasks(tasks, every)
    return with_statistics(tasks, receipts_of(executor(execute), first, options, progress.note))


def _compile_note(progress: Progress) -> Callable[[str], None]:
    """Says once that kernels are being compiled: without it, a first run looks stuck."""
    reported = False

    def tell(kernel: str) -> None:
        nonlocal reported
        if not reported:
            progress.note("compiling kernels, which are kept for the next run: a few seconds")
        reported = True

    return tell


def _check_members(plan: Plan, files: OutputFiles) -> None:
    spans = [span for receipt in files.receipts for span in receipt.spans]
    inputs = Files()
    try:
        check_members(plan.model.members, spans, inputs)
        inputs.check_unchanged()
    finally:
        inputs.close()


def _done_before(
    plan: Plan, recipe: Recipe, journal: Journal, overwrite: bool
) -> dict[int, Pieces]:
    """Files of an earlier run of this recipe that are whole; damaged ones are removed.

    With `overwrite` a complete output counts for nothing, a run that was killed for its files.
    """
    by_name = journal.finished(start_again=overwrite)
    found = {} if overwrite else recorded(plan, recipe)
    for number, file in enumerate(plan.layout.files):
        name = recorded_name(file.path)
        if name in by_name:
            found[number] = by_name[name]
    for number, pieces in list(found.items()):
        if not _is_intact(plan, number, pieces, overwrite):
            del found[number]
            if not overwrite:
                path = located(plan.layout.files[number].path)
                store_of(path).remove(path)
    return found


def _lost_before(
    plan: Plan, recipe: Recipe, journal: Journal, done: Mapping[int, Pieces]
) -> dict[int, Losses]:
    """What the tensors of finished files lost: as the journal has it, or the manifest."""
    by_name, whole = journal.losses(), recorded_loss(plan, recipe)
    found: dict[int, Losses] = {}
    for number, pieces in done.items():
        name = recorded_name(plan.layout.files[number].path)
        here = {piece[0] for piece in pieces}
        found[number] = by_name.get(name) or [row for row in whole if row.payload in here]
    return found


def lost(files: OutputFiles) -> tuple[TensorLoss, ...]:
    """What all encoded tensors lost, by name."""
    rows = (row for number in files.loss for row in files.loss[number])
    return tuple(sorted(rows, key=attrgetter("tensor")))


def _is_intact(plan: Plan, number: int, pieces: Pieces, overwrite: bool) -> bool:
    """As `intact`; with `overwrite`, a record that cannot be is no reason to stop."""
    try:
        return intact(plan, number, pieces)
    except FormatError:
        if overwrite:
            return False
        raise


def _refuse_inputs(plan: Plan) -> None:
    inputs = {(f.device, f.inode): f.path for f in plan.model.files}
    for file in plan.layout.files:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(file.path)
            taken = inputs.get((status.st_dev, status.st_ino))
            if taken is not None:
                raise UsageError(f"{file.path}: is the input {taken}; choose another output")
