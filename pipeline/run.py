"""Run a plan: unfinished files, tasks, receipts, and the final names."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from anamnesis.errors import UsageError
from anamnesis.pipeline.executors import Options, executor
from anamnesis.pipeline.journal import manifest, manifest_path
from anamnesis.pipeline.plan import Plan, Task
from anamnesis.pipeline.progress import Progress
from anamnesis.pipeline.task import Receipt
from anamnesis.writers import writer
from anamnesis.writers.part import PartFile, write_small


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made. Bytes are payload read and values written; seconds are wall time."""

    path: str
    files: tuple[str, ...]
    tensors: int
    read_bytes: int
    out_bytes: int
    seconds: float


def run_plan(
    plan: Plan, execute: str, options: Options, progress: Progress, *, overwrite: bool = False
) -> Outcome:
    """Make the files of a plan. On any error, or an interrupt, unfinished files are removed."""
    begin = time.perf_counter()
    out = Path(plan.spec.path)
    _refuse_inputs(plan)
    created = _make_folders([Path(f.path).parent for f in plan.layout.files])
    receipts: list[Receipt] = []
    writing = _Writing(plan, progress)
    try:
        writing.open(overwrite)
        progress.start(plan.out_bytes, [(f.path, f.nbytes) for f in plan.layout.files])

        def on_done(receipt: Receipt) -> None:
            receipts.append(receipt)
            progress.advance(receipt.file, receipt.out_bytes)
            writing.task_done(receipt.file)

        executor(execute)(writing.tasks, options, on_done)
        writing.finish()
        for name, data in plan.layout.extras:
            write_small(Path(name), data)
        write_small(manifest_path(out), manifest(plan, receipts))
    except BaseException:
        writing.discard()
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        progress.close()
    return Outcome(
        path=str(out),
        files=tuple(f.path for f in plan.layout.files),
        tensors=len(plan.items),
        read_bytes=sum(r.read_bytes for r in receipts),
        out_bytes=sum(r.out_bytes for r in receipts),
        seconds=time.perf_counter() - begin,
    )


class _Writing:
    """The unfinished files of a run; each is committed as soon as its last task is done.

    Syncing may take long, so that it happens beside the tasks, in one thread of its own.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._module = writer(plan.spec.format)
        self._parts: list[PartFile] = []
        self._left = [0] * len(plan.layout.files)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="amn-commit")
        self._commits: list[Future[None]] = []
        self.tasks: list[Task] = []

    def open(self, overwrite: bool) -> None:
        """Create every `.part` and bind the tasks to them."""
        for file in self._plan.layout.files:
            self._parts.append(PartFile(file, overwrite=overwrite))
        for task in self._plan.tasks:
            self._left[task.file] += 1
            self.tasks.append(replace(task, part=str(self._parts[task.file].part)))
        for number, left in enumerate(self._left):
            if not left:
                self._commit(number)

    def task_done(self, number: int) -> None:
        """Count a finished task; the last of a file commits it."""
        self._left[number] -= 1
        if not self._left[number]:
            self._commit(number)

    def finish(self) -> None:
        """Wait for every commit; raises the first error among them."""
        for commit in self._commits:
            commit.result()
        self._pool.shutdown(wait=True)

    def discard(self) -> None:
        """Remove what has no final name."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for part in self._parts:
            part.discard()

    def _commit(self, number: int) -> None:
        def commit() -> None:
            self._parts[number].commit(self._module)
            self._progress.done(number)

        self._commits.append(self._pool.submit(commit))


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
                path.mkdir()
                created.append(path)
    return created
