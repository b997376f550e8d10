"""How many requests a run makes of the store that its output lies in, from the plan alone.

Counted as stores bill them: *to write* are PUT, POST and listings, *to read* GET and HEAD. What is
removed costs nothing, and counts for the time of a commit alone. A run that nothing happens to, of
an output that was not there, makes exactly these (`tests/pipeline/test_planned_requests.py`), and
those that renew its lock every 20 seconds; into Arrow somewhat fewer, and packed files have fewer
parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

from anamnesis.pipeline.companions import Companion, companions
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.journal import is_folder
from anamnesis.pipeline.place import is_model_folder
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.work import PackTask, Piece, WriteTask
from anamnesis.writers.objects import AT_A_TIME, PAGE
from anamnesis.writers.upload import joined, most_bytes, part_bytes

# Of a run into one file: what is there is looked for, the lock, the journal, the manifest.
RUN_READS, RUN_WRITES = 12, 7
FOLDER_READS, FOLDER_WRITES = 3, 1  # more of one into a folder
ENCODED_READS = 3  # more of one that encodes
# Of a file: its state, the lock twice, the journal, its size three times.
FILE_READS = 7
# Its state and the journal; the folder of what is unfinished is listed twice at the beginning.
FILE_WRITES = 4
TASK_READS = 2  # the state of the upload: before, and once the receipt is kept
TASK_WAITS = 2  # that nothing else goes on beside: the receipt, and the state after it


@dataclass(frozen=True, slots=True)
class Requests:
    """Of a run, or of one file of it.

    `sends` are the parts and scraps of tasks, a few of each on their way at a time, and `waits`
    what a task asks besides, when they are there; `ends` those that the client makes one after the
    other when a file is complete, and `joins` the parts that it puts together before.
    """

    reads: int = 0
    writes: int = 0
    sends: int = 0
    waits: int = 0
    ends: int = 0
    joins: int = 0

    def __add__(self, other: Requests) -> Requests:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Requests(*(mine + theirs for mine, theirs in pairs))


NO_REQUESTS = Requests()


@dataclass(frozen=True, slots=True)
class Sent:
    """What tasks send of a file: their number, whole parts, and what they leave of others.

    `joins` are the parts that nobody had alone, and `fragments` what these are put together of.
    """

    tasks: int
    parts: int
    scraps: int = 0
    joins: int = 0
    fragments: int = 0


def requests_of(plan: Plan) -> Requests:
    """Of a plan whose output lies in a store."""
    from anamnesis.writers.bucket import kind_of

    url, files = plan.spec.path, plan.layout.files
    tasks: dict[int, list[WriteTask]] = {}
    for task in plan.tasks:
        tasks.setdefault(task.file, []).append(task)
    total = Requests(RUN_READS, RUN_WRITES + 2 * kind_of(url).lists_uploads)
    if is_folder(plan):
        total += Requests(FOLDER_READS, FOLDER_WRITES)
    if plan.choices:
        total += Requests(ENCODED_READS)
    if more := len(plan.layout.extras) + len(beside(plan)):  # whose names the journal gets
        total += Requests(1, 1 + more)
    for number, file in enumerate(files):
        size = part_bytes(most_bytes(file))
        parts = max(1, -(-file.nbytes // size))
        if plan.spec.staging:
            sent = Sent(0, parts)
        else:
            sent = _sent(tasks.get(number, ()), parts, size, file.nbytes)
        total += of_file(url, sent, staged=bool(plan.spec.staging))
    return total


def of_file(url: str, sent: Sent, *, staged: bool = False) -> Requests:
    """Of one file of the output at `url`."""
    from anamnesis.writers.bucket import kind_of

    reads, writes, removals = kind_of(url).besides(sent.parts + sent.joins)
    left = sent.tasks + sent.scraps
    pages = 1 + left // PAGE
    removals += left
    return Requests(
        reads=FILE_READS + TASK_READS * sent.tasks + sent.fragments + reads + staged,
        writes=FILE_WRITES - staged + 2 * pages + left + sent.parts + sent.joins + writes,
        sends=0 if staged else sent.parts + sent.scraps,
        waits=TASK_WAITS * sent.tasks,
        ends=FILE_READS + reads + writes + 2 * pages + -(-removals // AT_A_TIME),
        joins=sent.joins,
    )


def beside(plan: Plan) -> list[Companion]:
    """Files that are copied beside the weights."""
    if not is_model_folder(plan):
        return []
    return list(companions(plan.model.folder, plan.model.allow))


def _sent(tasks: Iterable[WriteTask], parts: int, size: int, nbytes: int) -> Sent:
    """Of a file of so many bytes, in parts of `size`."""
    count = alone = scraps = fragments = 0
    for task in tasks:
        count += 1
        if isinstance(task, PackTask):
            return Sent(1, parts)
        left = False
        for start, stop in joined(_places(task.pieces)):
            first, last = -(-start // size), stop // size
            if stop == nbytes and stop % size:  # the last part is short
                last += 1
            alone += max(0, last - first)
            ends = {start // size, (stop - 1) // size} - set(range(first, last))
            fragments += len(ends)
            left |= bool(ends)
        scraps += left
    return Sent(count, alone, scraps, parts - alone, fragments)


def _places(pieces: Iterable[Piece]) -> Iterator[tuple[int, int]]:
    """`(start, stop)` in the file of all that pieces write."""
    for piece in pieces:
        tensor, slot = piece.step.tensor, piece.step.slot
        if isinstance(piece, EncodedPiece):
            units, encoded = piece.units(piece.start, piece.stop), piece.encoded
            spans = [
                (part.span(*units), its)
                for part, its in zip(encoded.form.parts, encoded.slots, strict=True)
            ]
        else:
            last = min(piece.stop * tensor.unit_elems, tensor.elems)
            spans = [((piece.start * tensor.unit_elems, last), slot)] if slot else []
        for (start, stop), its in spans:
            if stop > start:
                yield from ((at, at + much) for at, much in its.ranges(start, stop))


__all__ = ["NO_REQUESTS", "Requests", "Sent", "of_file", "requests_of"]
