"""The output files of a run: unfinished, committed, or failed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from anamnesis.pipeline.journal import Journal, Pieces
from anamnesis.pipeline.plan import Plan, Task
from anamnesis.pipeline.progress import Progress
from anamnesis.pipeline.task import Receipt
from anamnesis.writers import writer
from anamnesis.writers.part import PartFile


class OutputFiles:
    """Listens to an executor; every file is committed as soon as its last task is done.

    Syncing may take long, so that it happens beside the tasks, in one thread of its own. With
    `hold`, nothing is committed before `release`. A file of which a task failed is given up: its
    other tasks are no longer wanted, and other files go on.
    """

    def __init__(
        self, plan: Plan, progress: Progress, journal: Journal, *, hold: bool = False
    ) -> None:
        self._plan = plan
        self._progress = progress
        self._journal = journal
        self._hold = hold
        self._module = writer(plan.spec.format)
        self._parts: dict[int, PartFile] = {}
        self._left: dict[int, int] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="amn-commit")
        self._commits: dict[int, Future[None]] = {}
        self.pieces: dict[int, Pieces] = {}
        self.failures: dict[int, Exception] = {}
        self.receipts: list[Receipt] = []

    def open(self, done: dict[int, Pieces], *, overwrite: bool) -> list[Task]:
        """Create a `.part` for every file not `done` before; the tasks, bound to them."""
        self.pieces.update(done)
        for number, file in enumerate(self._plan.layout.files):
            if number in done:
                self._progress.advance(number, file.nbytes)
                self._progress.done(number)
            else:
                self._parts[number] = PartFile(file, overwrite=overwrite)
                self._left[number] = 0
                self.pieces[number] = []
        tasks = []
        for task in self._plan.tasks:
            if task.file in self._parts:
                self._left[task.file] += 1
                tasks.append(replace(task, part=str(self._parts[task.file].part)))
        for number, left in self._left.items():
            if not left:
                self._commit(number)
        return tasks

    @property
    def written(self) -> tuple[int, ...]:
        """Numbers of the files that this run makes."""
        return tuple(self._parts)

    def wanted(self, task: Task) -> bool:
        """Whether the file of a task can still become whole."""
        return task.file not in self.failures

    def done(self, receipt: Receipt) -> None:
        """Count a finished task; the last of a file commits it."""
        self.receipts.append(receipt)
        number = receipt.file
        pieces = [[p.tensor, p.start, p.stop, p.xxh3] for p in receipt.pieces]
        self.pieces[number] = [*self.pieces[number], *pieces]
        self._progress.advance(number, receipt.out_bytes)
        self._left[number] -= 1
        if not self._left[number]:
            self._commit(number)

    def failed(self, task: Task, error: Exception) -> None:
        """Give up the file of a task; the first error is the one that is reported."""
        self.failures.setdefault(task.file, error)

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
                self.failures.setdefault(number, error)
        self._pool.shutdown(wait=True)
        for number in self.failures:
            if number in self._parts:
                self._parts[number].discard()

    def discard(self) -> None:
        """Remove what has no final name."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for part in self._parts.values():
            part.discard()

    def _commit(self, number: int) -> None:
        if self._hold or number in self.failures:
            return

        def record() -> None:
            self._journal.add(self._plan.layout.files[number].path, self.pieces[number])

        def commit() -> None:
            self._parts[number].commit(self._module, record)
            self._progress.done(number)

        self._commits[number] = self._pool.submit(commit)
