"""Run a plan: lock the output, skip what is done, run the tasks, give final names, record it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anamnesis import owned, stopping
from anamnesis.errors import UsageError
from anamnesis.kernels import compiling
from anamnesis.owned import sync_folder
from anamnesis.pipeline.companions import companions, copy_companions
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.executors import Options, executor
from anamnesis.pipeline.incomplete import clear_stale, contents, remove_incomplete, take_over
from anamnesis.pipeline.journal import (
    Journal,
    Recipe,
    intact,
    manifest_path,
    recorded,
    recorded_name,
    write_manifest,
)
from anamnesis.pipeline.lock import OutputLock
from anamnesis.pipeline.members import check_members
from anamnesis.pipeline.plan import Plan, decoded_dtype
from anamnesis.pipeline.progress import Progress
from anamnesis.pipeline.quant_config import config_blocks
from anamnesis.pipeline.records import Pieces
from anamnesis.pipeline.work import WriteTask
from anamnesis.pipeline.writing import OutputFiles
from anamnesis.readers.files import Files
from anamnesis.writers import WRITERS
from anamnesis.writers.part import remove_leftovers, write_small


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made. Bytes are payload read and values written; seconds are wall time.

    `resumed` counts files that an earlier run had finished.
    """

    path: str
    files: tuple[str, ...]
    tensors: int
    read_bytes: int
    out_bytes: int
    seconds: float
    resumed: int = 0


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
    out = Path(plan.spec.path)
    _refuse_inputs(plan)
    if _is_model_folder(plan):
        config_blocks(plan.choices, "")  # which refuses what no loader takes
    created = _make_folders([out.parent, *(Path(f.path).parent for f in plan.layout.files)])
    try:
        with OutputLock(out, progress.note):
            outcome = _run_locked(plan, execute, options, progress, overwrite, resume)
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
    )


def _run_locked(
    plan: Plan,
    execute: str,
    options: Options,
    progress: Progress,
    overwrite: bool,
    resume: bool,
) -> OutputFiles:
    recipe = Recipe.of(plan)
    whole = not plan.model.broken
    journal = Journal(Path(plan.spec.path), recipe, None if whole else contents(plan))
    if not whole:
        resume = True
        clear_stale(plan, journal)
    elif resume:
        take_over(plan, recipe, journal)
    done = _done_before(plan, recipe, journal, overwrite) if resume else {}
    remove_leftovers(_outputs(plan))
    # Nothing gets its final name before the checksums of the archive it came from hold.
    archived = bool(plan.model.members)
    files = OutputFiles(plan, progress, journal, hold=archived)
    try:
        progress.start(plan.out_bytes, [(f.path, f.nbytes) for f in plan.layout.files])
        tasks = files.open(done, overwrite=overwrite)
        if not resume:
            journal.remove()
        if files.written:
            if done:  # of which only the manifest may know
                journal.add({plan.layout.files[number].path: done[number] for number in done})
            manifest_path(Path(plan.spec.path)).unlink(missing_ok=True)
        with compiling(_compile_note(progress)):
            tasks = _with_statistics(tasks, execute, options, progress)
            executor(execute)(tasks, options, files)
        if archived and files.written and not files.failures:
            _check_members(plan, files)
            files.release()
        files.finish()
        if files.failures:
            raise next(iter(files.failures.values()))
        if whole:
            _complete(plan, recipe, journal, files)
    except BaseException:
        files.discard()
        if not any(Path(f.path).exists() for f in plan.layout.files):
            journal.remove()
        raise
    return files


def _with_statistics(
    tasks: list[WriteTask], execute: str, options: Options, progress: Progress
) -> list[WriteTask]:
    """The first pass, where an encoder asks for it; raises its first error."""
    if not any(isinstance(piece, EncodedPiece) for task in tasks for piece in task.pieces):
        return tasks
    from anamnesis.pipeline.statistics import FirstPass, statistics_tasks, with_statistics

    listener = FirstPass(progress.note)
    executor(execute)(statistics_tasks(tasks), options, listener)
    if listener.failure is not None:
        raise listener.failure
    return with_statistics(tasks, listener.found)


def _compile_note(progress: Progress) -> Callable[[str], None]:
    """Says once that kernels are being compiled: without it, a first run looks stuck."""
    told = False

    def tell(kernel: str) -> None:
        nonlocal told
        if not told:
            progress.note("compiling kernels, once for this machine: a few seconds")
        told = True

    return tell


def _complete(plan: Plan, recipe: Recipe, journal: Journal, files: OutputFiles) -> None:
    """Write what says that an output is whole, when all of its shards are."""
    for name, data in plan.layout.extras:
        write_small(Path(name), data)
    if _is_model_folder(plan):
        dtype = decoded_dtype(plan.model, plan.spec)
        source, target = Path(plan.model.path), Path(plan.spec.path)
        copy_companions(source, target, dtype, files.note, plan.choices)
    if files.written or not recorded(plan, recipe):
        write_manifest(plan, recipe, files.pieces)
    journal.remove()
    remove_incomplete(plan, recipe)


def _check_members(plan: Plan, files: OutputFiles) -> None:
    spans = [span for receipt in files.receipts for span in receipt.spans]
    inputs = Files()
    try:
        check_members(plan.model.members, spans, inputs)
        inputs.check_unchanged()
    finally:
        inputs.close()


def _is_model_folder(plan: Plan) -> bool:
    """Whether a folder goes in and a folder comes out that model libraries load."""
    row = WRITERS[plan.spec.format]
    folder_out = Path(plan.spec.path).suffix != row.suffix
    return (
        plan.spec.format in ("safetensors", "hf") and folder_out and os.path.isdir(plan.model.path)
    )


def _outputs(plan: Plan) -> Iterator[Path]:
    """Every file that a run may write."""
    yield manifest_path(Path(plan.spec.path))
    yield from (Path(file.path) for file in plan.layout.files)
    yield from (Path(name) for name, _ in plan.layout.extras)
    if _is_model_folder(plan):
        yield from (Path(plan.spec.path) / p.name for p in companions(Path(plan.model.path)))


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
        if not intact(plan, number, pieces):
            del found[number]
            if not overwrite:
                Path(plan.layout.files[number].path).unlink(missing_ok=True)
    return found


def _refuse_inputs(plan: Plan) -> None:
    inputs = {(f.device, f.inode): f.path for f in plan.model.files}
    for file in plan.layout.files:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(file.path)
            taken = inputs.get((status.st_dev, status.st_ino))
            if taken is not None:
                raise UsageError(f"{file.path}: is the input {taken}; choose another output")


def _make_folders(folders: Sequence[Path]) -> list[Path]:
    created: list[Path] = []
    for folder in dict.fromkeys(folders):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                owned.make_folder(path)
                created.append(path)
                sync_folder(path.parent)
    return created
