"""The output files of a run: unfinished, committed, or failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import PurePath
from threading import Lock

from anamnesis.pipeline import sent
from anamnesis.pipeline.journal import Journal
from anamnesis.pipeline.loss import Losses, PieceLoss, added_up
from anamnesis.pipeline.plan import Plan, Task, WriteTask
from anamnesis.pipeline.progress import Progress
from anamnesis.pipeline.records import Piece, Pieces
from anamnesis.pipeline.task import Receipt, WriteReceipt
from anamnesis.writers import writer
from anamnesis.writers.part import check_final
from anamnesis.writers.staged import Staged
from anamnesis.writers.stores import Making, Unfinished, located, store_of

COMMITS = 4  # files of a store that are completed at a time


class OutputFiles:
    """Listens to an executor; every file is committed as soon as its last task is done.

    Syncing may take long, so that it happens beside the tasks, in one thread of its own; files of a
    store, which take many requests each, are completed a few at a time. With `hold`, nothing is
    committed before `release`. A file of which a task failed is given up: its other tasks are no
    longer wanted, and other files go on. A file is created when its first task is about to run, and
    open from then on until its commit, so that no error of writing it back is missed and few are
    open at once.
    """

    def __init__(
        self,
        plan: Plan,
        progress: Progress,
        journal: Journal,
        *,
        hold: bool = False,
        stale: Sequence[PurePath] = (),
        run: str = "",
    ) -> None:
        """Listen for `plan`; `stale` holds no longer with the first new file: an old manifest.

        `run` is a digest of the recipe, by which what is kept of an earlier run is known.
        """
        self._run = run
        self._stale = stale
        self._plan = plan
        self._progress = progress
        self._journal = journal
        self._hold = hold
        self._store = store_of(plan.spec.path)
        # Where unfinished files lie: in the store itself, or on a disk.
        self._making: Making = self._store
        self._staged: Staged | None = None
        if plan.spec.staging:
            self._staged = Staged(plan.spec.staging, located(plan.spec.path), self._store)
            self._making = self._staged
        self._module = writer(plan.spec.format)
        self._overwrite = False
        self._lock = Lock()
        self._numbers: dict[str, int] = {}  # of the file of a task
        self._paths: dict[int, PurePath] = {}  # of the unfinished files
        self._parts: dict[int, Unfinished] = {}
        self._left: dict[int, int] = {}
        count = 1 if self._store.moves or plan.spec.staging else COMMITS
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="amn-commit")
        self._recording = Lock()
        self._commits: dict[int, Future[None]] = {}
        self.pieces: dict[int, list[Piece]] = {}
        self.failures: dict[int, Exception] = {}
        self.receipts: list[WriteReceipt] = []
        self._pieces_lost: dict[int, list[PieceLoss]] = {}
        self._encoded = {
            t.name: (t, str(choice.target))
            for t, (_, choice) in zip(plan.model.tensors, plan.choices, strict=False)
        }
        self.loss: dict[int, Losses] = {}  # by file, as its tensors

    def open(self, done: Mapping[int, Pieces], *, overwrite: bool) -> list[WriteTask]:
        """The tasks of every file not `done` before, bound to its `.part`.

        Raises UsageError when a file is there and may not be replaced, OSError (ENOSPC) when the
        disk has not enough room for all of them.
        """
        self._overwrite = overwrite
        files = self._plan.layout.files
        new = [number for number in range(len(files)) if number not in done]
        for number in new:
            final = located(files[number].path)
            check_final(final, overwrite)
            self._paths[number] = self._making.part(final, self._run)
            self._left[number] = 0
            self.pieces[number] = []
        for folder in self._making.check_space([files[number] for number in new]):
            self.note(f"the file system of {folder} does not say how much room it has")
        for number, pieces in done.items():
            self.pieces[number] = list(pieces)
            self._progress.done(number)
        tasks = []
        for task in self._plan.tasks:
            if task.file in self._paths:
                self._left[task.file] += 1
                self._numbers[task.key] = task.file
                tasks.append(replace(task, part=str(self._paths[task.file])))
        tasks = self._without_kept(tasks)
        for number, left in self._left.items():
            if not left and number not in self._commits:
                self._create(number)
                self._commit(number)
        return tasks

    def _without_kept(self, tasks: list[WriteTask]) -> list[WriteTask]:
        """The tasks that were not done by an earlier run whose unfinished files are kept."""
        kept: dict[str, WriteReceipt] = {}
        for number, part in self._paths.items():
            if not self._making.found(part):
                continue
            self._create(number)  # which forgets what an upload has left that is gone
            for data in self._making.found(part):
                receipt = sent.unpack(data)
                if receipt is not None:
                    kept[receipt.key] = receipt
        left = []
        for task in tasks:
            before = kept.get(task.key)
            if before is not None and sent.covers(before, task):
                self.done(before)
            else:
                left.append(task)
        return left

    @property
    def written(self) -> tuple[int, ...]:
        """Numbers of the files that this run makes."""
        return tuple(self._paths)

    def wanted(self, task: Task) -> bool:
        """Whether the file of a task can still become whole; it is there when this returns."""
        number = self._numbers[task.key]
        if number not in self.failures and number not in self._parts:
            try:
                self._create(number)
            except Exception as error:
                self._fail(number, error)
        return number not in self.failures

    def done(self, receipt: Receipt) -> None:
        """Count a finished task; the last of a file commits it."""
        if not isinstance(receipt, WriteReceipt):
            raise TypeError(f"{receipt.key}: wrote nothing")
        number = self._numbers[receipt.key]
        self.pieces[number] += [(p.tensor, p.start, p.stop, p.xxh3) for p in receipt.pieces]
        self._pieces_lost.setdefault(number, []).extend(receipt.loss)
        self.receipts.append(replace(receipt, pieces=(), loss=()))  # which are kept above
        self._parts[number].receive(receipt.stored)
        self._progress.advance(number, receipt.work_bytes)
        self._left[number] -= 1
        if not self._left[number]:
            self._commit(number)

    def failed(self, task: Task, error: Exception) -> None:
        """Give up the file of a task; the first error is the one that is reported."""
        self._fail(self._numbers[task.key], error)

    def note(self, text: str) -> None:
        """Pass a remark on to the person."""
        self._progress.note(text)

    def release(self) -> None:
        """Commit what was held back."""
        self._hold = False
        for number, left in self._left.items():
            if not left and number not in self.failures:
                self._commit(number)

    def finish(self) -> None:
        """Wait for every commit; a file whose commit fails has failed."""
        for number, commit in self._commits.items():
            try:
                commit.result()
            except Exception as error:
                self._fail(number, error)
        self._pool.shutdown(wait=True)
        for number in self.failures:
            if number in self._parts:
                self._parts[number].discard()
        self._close()

    def discard(self) -> None:
        """Remove what has no final name."""
        for part in self._parts.values():
            part.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for part in self._parts.values():
            part.discard()
        self._close()

    def _close(self) -> None:
        if self._staged is not None:
            self._staged.close()

    def _fail(self, number: int, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = self._plan.layout.files[number].path  # pwrite and fsync name none
        self.failures.setdefault(number, error)

    def _create(self, number: int) -> None:
        with self._lock:
            if number not in self._parts:
                file, path = self._plan.layout.files[number], self._paths[number]
                self._parts[number] = self._making.create(file, path, overwrite=self._overwrite)

    def _commit(self, number: int) -> None:
        if self._hold or number in self.failures:
            return

        self._commits[number] = self._pool.submit(self._completed, number)
        if self._staged is not None:  # no more files lie on the disk than were planned
            wait([self._commits[number]])

    def _completed(self, number: int) -> None:
        """Give a file its final name; runs in a thread of its own."""
        self._parts[number].commit(self._module, lambda: self._record(number))
        self._progress.done(number)

    def _record(self, number: int) -> None:
        """Note a file that is about to be there, before anything else says so."""
        path = self._plan.layout.files[number].path
        with self._recording:
            self.loss[number] = added_up(self._pieces_lost.get(number, ()), self._encoded)
            self._journal.add({path: self.pieces[number]}, {path: self.loss[number]})
            for stale in self._stale:
                self._store.remove(stale)
            self._stale = ()
