"""Layout before data: what a writer decides before the first payload byte is read.

Sizes follow from shapes, so every window of every tensor has a fixed place in its output file;
tasks write in any order, from any thread or process, without a lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeAlias

from anamnesis import owned
from anamnesis.errors import IntegrityError
from anamnesis.record import record


@record(frozen=True, slots=True)
class Item:
    """A tensor to store: `dtype` is the safetensors name, `elems` the product of `shape`.

    One that is `joined` lies in the same file as the item before it: the scales of a weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    elems: int
    scheme: str = ""
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """How a format keeps values, where it leaves a choice; the first of each is the usual one.

    `compression` is none, lz4 or zstd, `bf16` the Arrow type of BF16: extension, uint16 or float32.
    `stem` begins the names of safetensors files in a folder, and `metadata` are pairs of key and
    text for their headers. `key_values` are those of a GGUF, packed (`gguf_values.pack`),
    and `generated` its float32 vectors that no input has: name and numbers.
    """

    compression: str = "none"
    bf16: str = "extension"
    stem: str = "model"
    metadata: tuple[tuple[str, str], ...] = ()
    key_values: str = ""
    generated: tuple[tuple[str, tuple[float, ...]], ...] = ()


PLAIN = Storage()


class Writable(Protocol):
    """What takes bytes at offsets: an unfinished file in a store."""

    def write(self, data: Any, offset: int) -> None: ...


class Readable(Protocol):
    """What gives bytes at offsets: a plain file that is made as it is read."""

    def read_into(self, buffer: Any, offset: int) -> None:
        """Fill all of a writable buffer of bytes."""
        ...


class Rewritable(Writable, Protocol):
    """What a packed file is written to, nearly in order."""

    def mark(self, offset: int) -> None:
        """The one place from which on `write` may begin once more; it follows what was written."""
        ...

    def rewind(self) -> None:
        """What was written from the mark on does not count."""
        ...

    def end(self, nbytes: int) -> None:
        """All is written, and the file has so many bytes; what nobody wrote is zero."""
        ...


Target: TypeAlias = int | Writable  # a descriptor, or what stands for one
Source: TypeAlias = int | Readable
PackTarget: TypeAlias = int | Rewritable


class Slot(Protocol):
    """A tensor's place in an output file; small and picklable."""

    def write(self, fd: Target, start: int, values: Any) -> None:
        """Store `values`, a contiguous 1-D array, as the elements from `start` on.

        Windows of one tensor do not overlap and together cover it; they come in any order and
        from any thread or process. The bytes that belong to a window besides its values
        (record batch headers, say) are written by the window that holds their first element.
        """
        ...

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where the values of elements `[start, stop)` lie: `(offset, nbytes)` in order."""
        ...

    def heads(self) -> Iterator[tuple[int, bytes]]:
        """The bytes that windows bring besides their values: `(offset, bytes)`."""
        ...


@dataclass(frozen=True, slots=True)
class OutFile:
    """An output file: its final name, its size, and the bytes that are known beforehand.

    With a `packer`, a module of this room, all of that, and the slots, are about the plain file
    from which its `pack` makes the finished one, with `codec` (none, lz4, zstd), of at most about
    `packed_bytes`. `schema` is an Arrow schema that it needs, as an IPC message.
    """

    path: str
    nbytes: int
    fixed: tuple[tuple[int, bytes], ...]  # (offset, bytes): header, footer
    slots: tuple[Slot, ...] = ()  # of its tensors, in file order
    codec: str = ""
    packer: str = ""
    schema: bytes = b""
    packed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes. `places[i]` is the file number and the slot of item `i`.

    `order` lists item numbers as they lie in the files; `extras` are small files (an index) that
    are written after the last shard has its final name.
    """

    files: tuple[OutFile, ...]
    places: tuple[tuple[int, Slot], ...]
    order: tuple[int, ...]
    extras: tuple[tuple[str, bytes], ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.files) + sum(len(data) for _, data in self.extras)


class WriterModule(Protocol):
    """What a module in the table of output formats provides."""

    def layout(
        self, items: Sequence[Item], path: PurePath, max_shard_bytes: int, storage: Storage = PLAIN
    ) -> Layout:
        """Lay `items` out in one file (when `path` has the format's suffix) or a folder."""
        ...

    def check(self, path: PurePath, expected: OutFile) -> None:
        """Reopen a written file; IntegrityError when it is not what was laid out."""
        ...


def write_all(fd: Target, data: Any, offset: int) -> None:
    """`pwrite` all of a contiguous buffer, however many calls it takes."""
    if not isinstance(fd, int):
        fd.write(data, offset)
        return
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def read_all(fd: Source, buffer: Any, offset: int) -> None:
    """`pread` until a writable buffer is full; OSError where the file ends before."""
    if not isinstance(fd, int):
        fd.read_into(buffer, offset)
        return
    view = memoryview(buffer).cast("B")
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            raise OSError(f"an unfinished file ended at byte {offset + done:,}")
        done += got


def check_known(path: Path, expected: OutFile) -> None:
    """IntegrityError unless a file has its size and every byte that was known beforehand."""
    with open(owned.open_finished(path), "rb", buffering=0) as file:
        fd = file.fileno()
        compare_known(
            path,
            os.fstat(fd).st_size,
            lambda offset, nbytes: os.pread(fd, nbytes, offset),
            expected,
        )


def compare_known(
    path: PurePath, size: int, read: Callable[[int, int], bytes], expected: OutFile
) -> None:
    """The same for a file that `read(offset, nbytes)` reads, wherever it is."""
    if size != expected.nbytes:
        raise IntegrityError(f"{path}: {size:,} bytes were written, {expected.nbytes:,} laid out")
    heads = (head for slot in expected.slots for head in slot.heads())
    for offset, data in chain(expected.fixed, heads):
        if read(offset, len(data)) != data:
            raise IntegrityError(
                f"{path}: the {len(data):,} bytes from byte {offset:,} on are not the header "
                "that was laid out"
            )


def shard_groups(items: Sequence[Item], sizes: Sequence[int], max_bytes: int) -> list[list[int]]:
    """Split item numbers, in their order, into shards of at most `max_bytes` of values.

    A tensor is never split, nor are joined ones; what is larger than the limit gets a shard of its
    own.
    """
    groups: list[list[int]] = []
    filled = 0
    for together in _joined(items):
        size = sum(sizes[item] for item in together)
        if not groups or (filled and filled + size > max_bytes):
            groups.append([])
            filled = 0
        groups[-1] += together
        filled += size
    return groups or [[]]


def _joined(items: Sequence[Item]) -> list[list[int]]:
    found: list[list[int]] = []
    for number, item in enumerate(items):
        if item.joined and found:
            found[-1].append(number)
        else:
            found.append([number])
    return found
