"""An output file on its way into a store: parts by many workers, complete at the end.

A file is cut into parts of one size. What a task writes fills parts; one that is full is sent, and
what a task has of the others goes into an object of its own, a *scrap*. When all tasks are done,
the parts that no task had alone are put together of scraps, and of the bytes that were known
beforehand, by whoever commits. Nothing has the final name until the upload is completed.

Beside the output lies a folder `.NAME.RUN.part` with `upload`, which tells how to write, scraps,
and receipts of tasks. RUN is a digest of the recipe, so that a run which is resumed finds what the
one before has sent.

A task may outlive its file: one of a client that was killed, one that Dask does again. Whoever ends
a file removes `upload` first, and then what is listed. So what a task puts there is removed with
the file, or the task finds no `upload` afterwards and removes it itself (`confirm`). No two scraps
of different bytes have one name, so that a late one takes nobody's place.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import msgspec
import xxhash

from anamnesis.errors import IntegrityError, UsageError
from anamnesis.limits import MiB
from anamnesis.writers.base import OutFile, WriterModule
from anamnesis.writers.objects import Objects
from anamnesis.writers.outbox import FLYING
from anamnesis.writers.stores import Record, Stored

PART_BYTES = 8 * MiB  # S3 takes 5 MiB to 5 GiB, but for the last part, and 10,000 of them
MOST_PARTS = 9_000
JOINED = 8  # parts of PART_BYTES that a client puts together at a time; each is held whole
# Of a task: two ends, what an encoder writes to several places, and what is on its way.
HELD_PARTS = 6 + FLYING
STATE = "upload"


def part_bytes(nbytes: int) -> int:
    """The size of the parts of a file: whole MiB, so that there are not too many."""
    return max(PART_BYTES, -(-nbytes // MOST_PARTS // MiB) * MiB)


def most_bytes(out: OutFile) -> int:
    """The size of a file; of a packed one, what it will not have."""
    return max(out.nbytes, out.packed_bytes) + (MiB if out.packer else 0)


@dataclass(frozen=True, slots=True)
class State:
    """What `upload` says: where parts go, and how they are cut. `fixed` is a digest."""

    url: str
    upload: str
    part_bytes: int
    nbytes: int


class Upload:
    """An output file that is uploaded, as the client has it."""

    def __init__(
        self,
        objects: Objects,
        out: OutFile,
        folder: str,
        overwrite: bool,
        still: Callable[[], None],
        joining: Lock,
    ) -> None:
        """Begin it, or go on where an earlier run of the same recipe was. `still` asks the lock.

        Whoever holds `joining` puts parts together, of one file at a time.
        """
        self._objects, self._out, self._folder = objects, out, folder
        self._joining = joining
        self._overwrite, self._still, self._stopped = overwrite, still, False
        self._tags: dict[int, str] = {}
        self._scraps: list[Stored] = []
        self._state = self._resumed() or self._begun()
        self._nbytes = self._state.nbytes
        self._done = False

    def receive(self, stored: Stored | None) -> None:
        """Note what a task has sent."""
        if stored is not None:
            self._tags.update(stored.parts)
            self._scraps.append(stored)
            if stored.nbytes is not None:
                self._nbytes = stored.nbytes

    def commit(self, module: WriterModule, record: Record | None = None) -> None:
        """Send the parts that are left, look at all of them, `record`, and complete the upload.

        On any error nothing has the final name, or what had it before.
        """
        state = self._state
        try:
            self._join()
            self._check_parts()
            self._still()
            if record is not None:
                record()
            parts = sorted(self._tags.items())
            self._objects.complete(state.url, state.upload, parts, new=not self._overwrite)
            self._done = True
            self._abort_others()
            remove_folder(self._objects, self._folder)
            size = self._objects.size(state.url)
            if size != self._nbytes:
                raise IntegrityError(
                    f"{state.url}: has {size:,} bytes after its upload, of {self._nbytes:,}"
                )
        except BaseException:
            self.discard()
            raise

    def stop(self) -> None:
        self._stopped = True

    def discard(self) -> None:
        """Abort the upload and remove what belongs to it; a second call does nothing."""
        if not self._done:
            self._done = True
            with contextlib.suppress(OSError):  # the store is gone; the next run finds it
                self._objects.abort(self._state.url, self._state.upload)
                self._abort_others()
                remove_folder(self._objects, self._folder)

    def _abort_others(self) -> None:
        """Abort other uploads to this name: who holds the lock made them, and lost an answer.

        A request to begin one whose answer does not come is made again, and the store has two. A
        store that does not list them, or a lock that was lost, leaves them to the next run.
        """
        with contextlib.suppress(OSError, UsageError):
            self._still()
            for url, upload in self._objects.uploads(self._out.path):
                if url == self._out.path:
                    self._objects.abort(url, upload)

    def _join(self) -> None:
        """Send the parts that no task had alone, a few at a time: each takes several requests."""
        state = self._state
        numbers = range(1, -(-self._nbytes // state.part_bytes) + 1)
        left = [number for number in numbers if number not in self._tags]

        def send(number: int) -> str:
            self._look()
            data = self._assembled(number)
            return self._objects.part(state.url, state.upload, number, data)

        count = max(1, JOINED * PART_BYTES // state.part_bytes)  # larger parts hold no more
        # An error cancels what waits; what is on its way ends before the upload is aborted.
        with self._joining, ThreadPoolExecutor(count, thread_name_prefix="amn-join") as pool:
            self._look()
            self._tags.update(zip(left, pool.map(send, left), strict=True))

    def _look(self) -> None:
        if self._stopped:
            raise InterruptedError(f"{self._out.path}: the run was stopped")

    def _resumed(self) -> State | None:
        """The upload of an earlier run, when it is of the same cut, and still there."""
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            state = state_of(self._objects, self._folder)
            if state == self._wanted(state.upload):
                self._objects.parts(state.url, state.upload)
                return state
        return None

    def _begun(self) -> State:
        """A new upload; whatever lies in its folder is of one that is gone."""
        remove_folder(self._objects, self._folder)
        upload = self._objects.begin(self._out.path, self._folder)
        state = self._wanted(upload)
        try:
            self._objects.put(f"{self._folder}/{STATE}", msgspec.json.encode(state))
        except BaseException:
            self._objects.abort(self._out.path, upload)
            raise
        return state

    def _wanted(self, upload: str) -> State:
        nbytes = self._out.nbytes
        return State(self._out.path, upload, part_bytes(most_bytes(self._out)), nbytes)

    def _assembled(self, number: int) -> bytearray:
        """A part from scraps and the bytes that are known; what nobody wrote is zero."""
        size = self._state.part_bytes
        first = (number - 1) * size
        part = bytearray(min(size, self._state.nbytes - first))
        for offset, data in self._out.fixed:
            _overlay(part, offset - first, data)
        view, last = memoryview(part), first + len(part)
        for stored in self._scraps:
            at = 0
            for offset, nbytes in stored.ranges:
                begin, end = max(offset, first), min(offset + nbytes, last)
                if begin < end:
                    url = f"{self._folder}/{stored.scrap}"
                    target = view[begin - first : end - first]
                    self._objects.read_into(url, at + begin - offset, target)
                at += nbytes
        return part

    def _check_parts(self) -> None:
        """IntegrityError unless the store has every part as it was sent."""
        state = self._state
        there = self._objects.parts(state.url, state.upload)
        for number, tag in sorted(self._tags.items()):
            size = min(state.part_bytes, self._nbytes - (number - 1) * state.part_bytes)
            if (number, tag, size) not in there:
                has = sorted(part[1:] for part in there if part[0] == number)
                raise IntegrityError(
                    f"{state.url}: part {number:,} of {size:,} bytes ({tag}) is not what the "
                    f"store has ({has}); run again"
                )


def state_of(objects: Objects, folder: str) -> State:
    """What `upload` says in the folder of an unfinished file; FileNotFoundError when that ended."""
    data, _ = objects.get(f"{folder}/{STATE}")
    return msgspec.json.decode(data, type=State)


def receipt_name(key: str, state: State) -> str:
    """The object that a task's receipt is kept in: another in each upload to a name."""
    return f"{key}.{xxhash.xxh3_64_hexdigest(state.upload.encode())}"


def keep_receipt(
    objects: Objects, folder: str, key: str, receipt: bytes, state: State, scrap: str = ""
) -> None:
    """Put a receipt beside what a task has sent, its `scrap` too, and `confirm` all of it."""
    name = receipt_name(key, state)
    objects.put(f"{folder}/{name}", receipt)
    confirm(objects, folder, [scrap, name] if scrap else [name], state)


def confirm(
    objects: Objects, folder: str, names: Sequence[str], state: State | None = None
) -> None:
    """Look whether the file is still unfinished in whose folder objects were put.

    FileNotFoundError when it is not, or when its upload is no more that of `state`: in the first
    case the objects are removed, in both the parts of that upload.
    """
    try:
        now = state_of(objects, folder)
        if state is None or now == state:
            return
    except FileNotFoundError:
        objects.remove([f"{folder}/{name}" for name in names])
    if state is not None:
        objects.abort(state.url, state.upload)
    raise FileNotFoundError(errno.ENOENT, "this unfinished file is gone: its run has ended", folder)


def remove_folder(objects: Objects, folder: str) -> None:
    """Remove all objects right below a prefix: `upload` before the others are listed."""
    names = objects.names(folder)
    if STATE in names:
        objects.remove([f"{folder}/{STATE}"])
        names = objects.names(folder)
    for name in names:
        if name.startswith("parts-"):
            remove_folder(objects, f"{folder}/{name}")
    objects.remove([f"{folder}/{name}" for name in names if not name.startswith("parts-")])


def _overlay(part: bytearray, at: int, data: bytes) -> None:
    """Copy what of `data`, which begins at `at`, lies in the part."""
    begin, end = max(at, 0), min(at + len(data), len(part))
    if begin < end:
        part[begin:end] = data[begin - at : end - at]


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges `(start, stop)` in order, those as one that touch."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


__all__ = [
    "State",
    "Upload",
    "confirm",
    "joined",
    "keep_receipt",
    "most_bytes",
    "part_bytes",
    "receipt_name",
    "remove_folder",
    "state_of",
]
