"""Where outputs live: a disk, or a store behind a URL. The run loop knows one interface for both.

A path on a disk is a `Path`. What lies behind a URL is named by a `StorePath`, which has a path's
name, parent and suffix and is written as the URL. `store_of` gives the operations for either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Protocol

from anamnesis.readers.source import is_url
from anamnesis.writers.base import OutFile, Rewritable, WriterModule

Record = Callable[[], None]
Note = Callable[[str], None]


class StorePath(PurePosixPath):
    """`s3://bucket/folder/name`, with the names of a path; repeated slashes count once."""

    __slots__ = ()

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"

    def __fspath__(self) -> str:
        return str(self)


class Sink(Protocol):
    """An unfinished file as a worker has it open."""

    def write(self, data: Any, offset: int) -> None:
        """Put a contiguous buffer at a byte offset; it may be used again afterwards."""
        ...

    def finish(self, durable: bool) -> Stored | None:
        """All that the task writes was written; where it is, if the client has to know."""
        ...

    def keep(self, key: str, receipt: Callable[[], bytes]) -> None:
        """Keep the task's receipt, after `finish`, where it outlives the run.

        FileNotFoundError, and nothing is left of the task, where the file has ended.
        """
        ...

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What a task left in a store: whole parts, `(number, ETag)`, and what it has of others.

    The latter lies in one object, `scrap`: ranges of the file, `(offset, nbytes)`, in this order.
    """

    parts: tuple[tuple[int, str], ...] = ()
    scrap: str = ""
    ranges: tuple[tuple[int, int], ...] = ()
    nbytes: int | None = None  # of the whole file, when it was packed


class Packing(Rewritable, Protocol):
    """An unfinished packed file, as the one worker has it that writes all of it."""

    def stored(self) -> Stored:
        """Where it is, after its end."""
        ...

    def keep(self, key: str, receipt: Callable[[], bytes]) -> None:
        """As of a `Sink`, after its end."""
        ...

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        ...


class Unfinished(Protocol):
    """An output file without its final name, as the client of a run has it."""

    def receive(self, stored: Stored | None) -> None:
        """A task has written its pieces."""
        ...

    def commit(self, module: WriterModule, record: Record | None = None) -> None:
        """Check it, `record` it and give it its final name; on any error there is none."""
        ...

    def stop(self) -> None:
        """Let a commit in another thread fail soon."""
        ...

    def discard(self) -> None:
        """Remove what was written; a second call does nothing."""
        ...


class Making(Protocol):
    """Where the unfinished files of a run lie."""

    def check_space(self, files: Sequence[OutFile]) -> list[str]:
        """OSError (ENOSPC) unless there is room; the folders of which nobody knows."""
        ...

    def part(self, final: PurePath, run: str) -> PurePath:
        """The name of the unfinished file of a run, of which `run` is the digest."""
        ...

    def create(self, out: OutFile, part: PurePath, *, overwrite: bool) -> Unfinished:
        """Begin a file, or go on with the one that is kept at `part`."""
        ...

    def found(self, part: PurePath) -> list[bytes]:
        """Receipts of tasks that were kept with the unfinished file at `part`."""
        ...


class Store(Making, Protocol):
    """Operations on files by path. What is written is whole under its name, or absent."""

    @property
    def moves(self) -> bool:
        """Whether a folder, or a file, can take another's name at once."""
        ...

    def exists(self, path: PurePath) -> bool:
        """Whether anything has this name."""
        ...

    def names(self, folder: PurePath) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        ...

    def size(self, path: PurePath) -> int:
        """In bytes; raises FileNotFoundError."""
        ...

    def read(self, path: PurePath, max_bytes: int, *, strangers: bool = False) -> bytes:
        """All of a small file of this program's; see `owned.read_owned` for what it raises."""
        ...

    def write(self, path: PurePath, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a file whole from its pieces, in place of what has its name."""
        ...

    def remove(self, path: PurePath) -> None:
        """Remove a file, if it is there."""
        ...

    def link(self, path: PurePath, name: PurePath) -> bool:
        """Give a file of this run another name; False where no file has two."""
        ...

    def append(self, path: PurePath, lines: bytes, max_bytes: int) -> None:
        """Add lines to a log, durable when this returns."""
        ...

    def lines(self, path: PurePath, most: int, max_bytes: int) -> Iterator[bytes]:
        """The lines of a log, those that are cut or longer than `most` left out."""
        ...

    def check(self, module: WriterModule, path: PurePath, out: OutFile) -> None:
        """Reopen a finished file; IntegrityError when it is not what was laid out."""
        ...

    def lock(self, out: PurePath, note: Note | None = None) -> AbstractContextManager[Any]:
        """Hold an output; UsageError when another run does."""
        ...

    def make_folders(self, folders: Sequence[PurePath]) -> list[Path]:
        """Make what is missing of folders; those that were made."""
        ...

    def clear(self, finals: Sequence[PurePath], folder: PurePath | None, keep: str) -> None:
        """Remove unfinished files of `finals`, and all in `folder`; `keep` is a run to go on."""
        ...

    def keep(self, part: PurePath, name: str, data: bytes) -> None:
        """Keep an object with the unfinished file, which goes with it.

        FileNotFoundError, and nothing is kept, where that has ended.
        """
        ...

    def open_part(self, part: PurePath) -> Sink:
        """The unfinished file at `part`, for a worker to write to."""
        ...

    @property
    def packs(self) -> bool:
        """Whether a packed file is made by one task; else from a plain one when it is complete."""
        ...

    def open_pack(self, part: PurePath) -> Packing:
        """The unfinished packed file at `part`, for the worker that writes all of it."""
        ...

    def reach(self, folder: PurePath) -> None:
        """Raise what keeps this process from an output's place, OSError or UnsupportedError."""
        ...

    def task_bytes(self, files: Sequence[OutFile]) -> int:
        """Memory that a task takes to write to any of these files."""
        ...

    def commit_bytes(self, files: Sequence[OutFile]) -> int:
        """Memory that completing any of these files takes, however many are at a time."""
        ...


def located(text: str | os.PathLike[str]) -> PurePath:
    """The path of an output, from how it was written: a path, or a URL."""
    text = os.fspath(text)
    if not is_url(text):
        return Path(text)
    from anamnesis.readers.urls import local_path  # noqa: PLC0415 - fsspec is for URLs alone

    local = local_path(text)
    return StorePath(text) if local is None else Path(local)


def store_of(path: PurePath | str) -> Store:
    """What does operations on `path`; raises UnsupportedError without the driver of a URL."""
    path = located(path) if isinstance(path, str) else path
    if not isinstance(path, StorePath):
        return _disk()
    return _bucket("/".join(str(path).split("/", 3)[:3]))


def forget() -> None:
    """Make clients of stores again, which take credentials and endpoints when they are made."""
    _bucket.cache_clear()


@cache
def _disk() -> Store:
    return _made("disk:Disk")


@cache
def _bucket(root: str) -> Store:
    return _made("bucket:Bucket", root)


def _made(target: str, *arguments: str) -> Store:
    module, _, name = target.partition(":")
    store: Store = getattr(import_module(f"anamnesis.writers.{module}"), name)(*arguments)
    return store
