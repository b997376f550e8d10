"""What travels to workers: tasks, the pieces they are made of, and how those are packed.

Small frozen records, picklable, without payload. A *step* says how one tensor goes through the
loop, a *piece* is a range of it, and a *task* is what one worker does at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from anamnesis.readers.base import Tensor
from anamnesis.record import record
from anamnesis.writers.base import OutFile, Slot

TASK_PIECES = 100  # some 350 bytes each on their way to a worker


@record(frozen=True, slots=True)
class Step:
    """How one tensor goes through the loop; sizes in output units."""

    tensor: Tensor
    dtype: str  # of the output, safetensors name
    itemsize: int
    slot: Slot | None
    window_units: int
    batch_units: int
    memory_bytes: int  # buffers and parameters of one task


@record(frozen=True, slots=True)
class PieceReceipt:
    """Elements `[start, stop)` of a tensor were written; `xxh3` is the digest of their bytes."""

    tensor: str
    start: int
    stop: int
    xxh3: str


class Read(NamedTuple):
    """Units `[start, stop)` of a step's tensor that are read, in order.

    When it is `loose`, not all of them, or some more than once.
    """

    step: Step
    start: int
    stop: int
    loose: bool = False


class Work(Protocol):
    """A piece of a task: a range of one tensor's values, or of two that are compared."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that are read."""
        ...

    @property
    def value_bytes(self) -> int:
        """Bytes of decoded values: what tasks are cut by."""
        ...

    @property
    def work_bytes(self) -> int:
        """What the piece counts for in the job's progress."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Buffers and parameters while it runs."""
        ...

    def reads(self) -> Iterator[Read]:
        """What is read, in its order; a step's parameters with its first."""
        ...


@record(frozen=True, slots=True)
class Piece:
    """A range of one tensor's units."""

    step: Step
    start: int
    stop: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.step.tensor,)

    @property
    def value_bytes(self) -> int:
        return out_bytes(self.step, self.start, self.stop)

    @property
    def work_bytes(self) -> int:
        return self.value_bytes

    @property
    def memory_bytes(self) -> int:
        return self.step.memory_bytes

    def reads(self) -> Iterator[Read]:
        yield Read(self.step, self.start, self.stop)


@record(frozen=True, slots=True)
class Loosely(Piece):
    """A range of which is read what somebody asks for, more or less in order."""

    def reads(self) -> Iterator[Read]:
        yield Read(self.step, self.start, self.stop, loose=True)


@dataclass(frozen=True, slots=True)
class Task:
    """What one worker does at a time; every kind of job has a class of its own.

    `origin` is for workers elsewhere: the folder that relative paths start from. `ahead_bytes` may
    be fetched ahead of what is read from behind URLs; they are part of `memory_bytes`.
    """

    key: str
    pieces: tuple[Work, ...]
    work_bytes: int  # what it counts for in the job's progress
    memory_bytes: int
    origin: str = field(default="", kw_only=True)
    ahead_bytes: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class WriteTask(Task):
    """Pieces of one output file, in file order.

    With an `origin` the file is synced before the task reports, as its pages must have left the
    worker when the client renames it.
    """

    pieces: tuple[Piece, ...]
    file: int  # number in the layout
    part: str = ""  # path of the unfinished output file; set when the run starts


@dataclass(frozen=True, slots=True)
class PackTask(WriteTask):
    """All pieces of an output file that is packed while it is decoded, by one worker."""

    out: OutFile = field(kw_only=True)


W = TypeVar("W", bound=Work)


def pack(pieces: Iterable[W], most_bytes: int) -> Iterator[tuple[W, ...]]:
    """Group pieces, in order, to tasks of at most `most_bytes` of values (or of one piece)."""
    group: list[W] = []
    filled = 0
    for piece in pieces:
        nbytes = piece.value_bytes
        if group and (filled + nbytes > most_bytes or len(group) >= TASK_PIECES):
            yield tuple(group)
            group, filled = [], 0
        group.append(piece)
        filled += nbytes
    if group:
        yield tuple(group)


def load(pieces: Iterable[Work]) -> tuple[int, int]:
    """`work_bytes` and `memory_bytes` of a task of these pieces, one after the other."""
    found = [(piece.work_bytes, piece.memory_bytes) for piece in pieces]
    return sum(work for work, _ in found), max((memory for _, memory in found), default=0)


def out_bytes(step: Step, start: int, stop: int) -> int:
    """Bytes of the values of units `[start, stop)`."""
    elems = min(stop * step.tensor.unit_elems, step.tensor.elems) - start * step.tensor.unit_elems
    return elems * step.itemsize


def units_of(tensor: Tensor, first: int, last: int) -> tuple[int, int]:
    """The units that have elements `[first, last)`; windows may start and end there."""
    if first == last:
        return 0, 0
    span = tensor.unit_elems * tensor.unit_multiple
    stop = min(-(-last // span) * tensor.unit_multiple, tensor.units)
    return first // span * tensor.unit_multiple, stop
