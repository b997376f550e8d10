"""How long a plan should take and how many requests it makes, for a stated line and workers.

A model of five things that go on at the same time, of which the slowest decides: reading over the
line, decoding, writing over the line, a cluster's scheduler, and the client, which puts together
what parts of an upload two tasks have and completes files. A worker of a cluster, which is told of
one task at a time, waits for the first bytes of each, and for the answers to the last. Before them
come the start, the headers and the plan, one after the other; behind them the last blocks and the
last file. Storage on this machine is taken to keep up. What decoding and scheduling take was
measured (docs/scaling.md); tests/pipeline/test_estimate.py holds the rest against runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from anamnesis.errors import UsageError
from anamnesis.kernels import Window
from anamnesis.names.derived import Derived
from anamnesis.pipeline.plan import TASK_BYTES, Plan
from anamnesis.pipeline.reads import is_plain, ranges_of_step
from anamnesis.pipeline.requests import (
    NO_REQUESTS,
    RUN_READS,
    RUN_WRITES,
    Requests,
    beside,
    requests_of,
)
from anamnesis.pipeline.work import Piece
from anamnesis.pipeline.writing import COMMITS
from anamnesis.readers.base import Range
from anamnesis.readers.hub import parse
from anamnesis.readers.source import is_url
from anamnesis.readers.together import REQUESTS as OPENED
from anamnesis.writers.outbox import FLYING
from anamnesis.writers.upload import JOINED, PART_BYTES

# As measured; docs/scaling.md has the runs.
START_SECONDS, CLUSTER_START_SECONDS = 0.8, 2.0
DECODE_SECONDS = 0.6e-9  # a byte of output, one thread
PLAN_SECONDS = 66e-6  # a task
SCHEDULER_SECONDS = 4.1e-3  # a task, of all workers together
DRIVER_SECONDS = 0.6  # of importing a driver
_COPIED_BYTES = 2 << 20  # of a file beside the weights, a request at least
JOIN_REQUESTS = 3  # one after the other: two that read, and the part itself


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the seconds and the cost are for; `prices` are for 1,000 requests.

    `workers` are processes of one thread, each with a line of its own; 0 is this process with the
    threads of the plan. `bandwidth` is bytes a second of a line, each way; `latency` is seconds
    until an answer begins.
    """

    workers: int = 0
    bandwidth: float = 125e6
    latency: float = 0.05
    price_get: float | None = None
    price_put: float | None = None
    price_source: str = ""

    def __post_init__(self) -> None:
        if self.priced and not self.price_source:
            raise UsageError("--price-source: says whose prices --price-get and --price-put are")

    @property
    def priced(self) -> bool:
        """Whether prices are stated."""
        return self.price_get is not None or self.price_put is not None


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a plan moves; requests and bytes are those behind URLs, `out_bytes` all that is made."""

    out_bytes: int
    tasks: int
    files: int  # that are opened
    out_files: int = 1
    get_bytes: int = 0
    gets: int = 0
    put_bytes: int = 0
    output: Requests = NO_REQUESTS  # of the store that the output lies in
    opening: int = 0  # requests for headers, and of files beside the weights
    hops: int = 1  # requests one after the other for a header
    at_a_time: int = 1  # that a thread's budget has in flight

    @property
    def is_remote(self) -> bool:
        """Whether anything is behind a URL."""
        return bool(self.gets or self.output.writes)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds in all, and of each thing that takes some; requests, and what they cost."""

    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    gets: int = 0
    puts: int = 0
    cost: float | None = None


def estimate(amounts: Amounts, threads: int, assumed: Assumed) -> Estimate:
    """How long, and how many requests; `threads` are those of the plan, in this process."""
    lines = max(1, assumed.workers)
    threads = assumed.workers or threads
    line = assumed.bandwidth * lines
    in_flight = max(1, min(amounts.at_a_time * threads, 32 * lines))
    parts = {
        "start": (CLUSTER_START_SECONDS if assumed.workers else START_SECONDS)
        + (DRIVER_SECONDS if amounts.is_remote else 0.0),
        "open": _opening(amounts, assumed),
        "plan": PLAN_SECONDS * amounts.tasks,
        "read": max(amounts.get_bytes / line, amounts.gets * assumed.latency / in_flight),
        "decode": amounts.out_bytes * DECODE_SECONDS / threads,
        "write": max(amounts.put_bytes / line, _sending(amounts, assumed) / threads),
        "wait": _waiting(amounts, assumed) / threads,
        "schedule": SCHEDULER_SECONDS * amounts.tasks if assumed.workers else 0.0,
        "join": amounts.output.joins * _join_seconds(assumed)
        + amounts.output.ends * assumed.latency / min(COMMITS, max(1, amounts.out_files)),
        "end": _ending(amounts, assumed, threads),
    }
    line_seconds = _moving(amounts, assumed, parts) + parts["wait"]
    together = max(line_seconds, *(parts[name] for name in ("decode", "schedule", "join")))
    alone = sum(parts[name] for name in ("start", "open", "plan", "end"))
    gets, puts = amounts.gets + amounts.opening + amounts.output.reads, amounts.output.writes
    cost = None
    if assumed.priced:
        cost = (gets * (assumed.price_get or 0) + puts * (assumed.price_put or 0)) / 1000
    return Estimate(alone + together, parts, gets, puts, cost)


def _moving(amounts: Amounts, assumed: Assumed, parts: dict[str, float]) -> float:
    """Reading and sending at a time.

    A worker sends nothing of a task before its first part is full, and reads nothing of the next
    one before its last part is sent.
    """
    reading, sending = parts["read"], parts["write"]
    if assumed.workers and amounts.put_bytes:
        share = min(1.0, PART_BYTES * amounts.tasks / amounts.put_bytes)
        line = assumed.bandwidth * assumed.workers
        reading += share * amounts.put_bytes / line
        sending += share * amounts.get_bytes / line
    return max(reading, sending)


def _sending(amounts: Amounts, assumed: Assumed) -> float:
    """Of one thread that sends it all, a few parts at a time."""
    sends = amounts.output.sends
    part = amounts.put_bytes / max(1, sends + amounts.output.joins)
    return sends * (assumed.latency + part / assumed.bandwidth) / FLYING


def _waiting(amounts: Amounts, assumed: Assumed) -> float:
    """Of one thread, while its line is idle: at the beginning of a task, and at its end.

    First it asks how to write, and on a worker reads: both at a time. At the end its last part is
    on its way, and what it asks then.
    """
    waits = amounts.output.waits
    firsts = amounts.tasks * bool(waits or (assumed.workers and amounts.gets))
    lasts = amounts.tasks * bool(waits)
    return (firsts + lasts + waits) * assumed.latency


def _join_seconds(assumed: Assumed) -> float:
    """Of a part, several of which are on their way over the client's line, in and out."""
    waiting = JOIN_REQUESTS * assumed.latency + 2 * PART_BYTES / assumed.bandwidth
    return max(waiting / JOINED, PART_BYTES / assumed.bandwidth)


def _opening(amounts: Amounts, assumed: Assumed) -> float:
    """Headers, and what is there of an output."""
    stored = RUN_READS + RUN_WRITES if amounts.output.writes else 0
    rounds = -(-amounts.files // OPENED)
    headers = rounds * amounts.hops + 3 if amounts.opening else 0  # listing, index, configurations
    return assumed.latency * (headers + stored)


def _ending(amounts: Amounts, assumed: Assumed, threads: int) -> float:
    """The first block, the last task, and its file, which nothing else goes on beside."""
    if not amounts.is_remote:
        return 0.0
    last = min(TASK_BYTES, amounts.out_bytes / max(1, amounts.tasks)) * DECODE_SECONDS
    file = amounts.output.ends / max(1, amounts.out_files)
    return last + (2 + file) * assumed.latency


def notes_on_line(given: Iterable[str], plans: Sequence[Plan]) -> list[str]:
    """A note for each of the `given` fields of a line's `Assumed`, where no plan goes over one."""
    paths = [path for p in plans for path in (p.spec.path, *(f.path for f in p.model.files))]
    if not plans or any(map(is_url, paths)):
        return []
    return [f"{name} has no effect: it is for inputs and outputs behind URLs" for name in given]


def amounts_of(plan: Plan) -> Amounts:
    """What a plan moves, from its tasks."""
    remote = [file for file in plan.model.files if is_url(file.path)]
    hub = any(parse(file.path) for file in remote)
    gets, get_bytes = _gets(plan) if remote else (0, 0)
    stored = is_url(plan.spec.path)
    hops = 2 if hub else 1
    copied = [hops + c.nbytes // _COPIED_BYTES for c in beside(plan) if is_url(c.path)]
    from anamnesis.readers.ahead import BLOCK_BYTES

    ahead = max((task.ahead_bytes for task in plan.tasks), default=0)
    return Amounts(
        out_bytes=plan.out_bytes,
        tasks=len(plan.tasks),
        files=len(plan.model.files),
        out_files=len(plan.layout.files),
        get_bytes=get_bytes,
        gets=gets,
        put_bytes=plan.out_bytes if stored else 0,
        output=requests_of(plan) if stored else NO_REQUESTS,
        opening=len(remote) * hops + 4 + sum(copied) if remote else 0,
        hops=hops,
        at_a_time=1 + ahead // BLOCK_BYTES,  # and the one that is waited for
    )


def _gets(plan: Plan) -> tuple[int, int]:
    """Requests for the payload, and their bytes."""
    from anamnesis.readers.ahead import blocks_of

    requests = nbytes = 0
    for task in plan.tasks:
        ranges: list[Range] = []
        for piece in task.pieces:
            if isinstance(piece.step.tensor, Derived):
                ranges += ranges_of_step(piece.step, piece.start, piece.stop)
            else:
                ranges += _of_piece(piece)
        found, much = blocks_of(ranges)
        requests += found
        nbytes += much
    return requests, nbytes


def _of_piece(piece: Piece) -> Iterator[Range]:
    for component in piece.step.tensor.components:
        stored = component.stored
        if not is_plain(component):
            yield Range(stored.file, stored.offset, stored.offset + stored.nbytes)
            continue
        window = Window(piece.start, piece.stop)
        for begin, stop in component.placement.ranges(stored.nbytes, window):
            yield Range(stored.file, stored.offset + begin, stored.offset + stop)
