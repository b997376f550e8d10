"""Outputs on a disk, or on whatever is mounted like one: `owned` and `part` behind `Store`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePath
from typing import Any

from anamnesis import owned
from anamnesis.limits import KiB
from anamnesis.writers.base import OutFile, WriterModule, write_all
from anamnesis.writers.lock import OutputLock
from anamnesis.writers.part import (
    PartFile,
    check_space,
    link_again,
    part_path,
    remove_leftovers,
    remove_parts,
    write_stream,
)
from anamnesis.writers.stores import Packing, Unfinished

# Writes of so few bytes are held until so many follow one another.
_SMALL, _HELD = 4 * KiB, 64 * KiB


class Disk:
    """The file system of this machine."""

    moves = True
    packs = False

    def exists(self, path: PurePath) -> bool:
        return os.path.lexists(path)

    def names(self, folder: PurePath) -> list[str]:
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def size(self, path: PurePath) -> int:
        return os.stat(path).st_size

    def read(self, path: PurePath, max_bytes: int, *, strangers: bool = False) -> bytes:
        return owned.read_owned(Path(path), max_bytes, strangers=strangers)

    def write(self, path: PurePath, pieces: Iterable[bytes | memoryview]) -> None:
        write_stream(Path(path), pieces)

    def remove(self, path: PurePath) -> None:
        Path(path).unlink(missing_ok=True)

    def link(self, path: PurePath, name: PurePath) -> bool:
        return link_again(Path(path), Path(name))

    def append(self, path: PurePath, lines: bytes, max_bytes: int) -> None:
        path = Path(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        fd = owned.open_owned(path, flags, max_bytes - len(lines))
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(fd, view) :]
            owned.sync(fd)
        finally:
            os.close(fd)
        owned.sync_folder(path.parent)  # the name may be new, whatever is in the file

    def lines(self, path: PurePath, most: int, max_bytes: int) -> Iterator[bytes]:
        try:
            fd = owned.open_owned(Path(path), os.O_RDONLY, max_bytes)
        except FileNotFoundError:
            return
        yield from owned.lines(fd, most)

    def check(self, module: WriterModule, path: PurePath, out: OutFile) -> None:
        module.check(Path(path), out)

    def lock(
        self, out: PurePath, note: Callable[[str], None] | None = None
    ) -> AbstractContextManager[Any]:
        return OutputLock(Path(out), note)

    def make_folders(self, folders: Sequence[PurePath]) -> list[Path]:
        created: list[Path] = []
        for folder in dict.fromkeys(Path(folder) for folder in folders):
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            for path in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    owned.make_folder(path)
                    created.append(path)
                    owned.sync_folder(path.parent)
        return created

    def clear(self, finals: Sequence[PurePath], folder: PurePath | None, keep: str) -> None:
        remove_leftovers(Path(final) for final in finals)
        if folder is not None:
            remove_parts(Path(folder))

    def check_space(self, files: Sequence[OutFile]) -> list[str]:
        return [str(folder) for folder in check_space(files)]

    def part(self, final: PurePath, run: str) -> PurePath:
        return part_path(Path(final))

    def create(self, out: OutFile, part: PurePath, *, overwrite: bool) -> Unfinished:
        return PartFile(out, overwrite=overwrite, part=Path(part))

    def found(self, part: PurePath) -> list[bytes]:
        return []  # an unfinished file ends with its run

    def keep(self, part: PurePath, name: str, data: bytes) -> None:
        raise TypeError(f"{part}: has no room beside it")

    def open_part(self, part: PurePath) -> DiskSink:
        return DiskSink(owned.open_part(Path(part)))

    def open_pack(self, part: PurePath) -> Packing:
        raise TypeError(f"{part}: is packed from a plain file")

    def reach(self, folder: PurePath) -> None:
        os.stat(folder)

    def task_bytes(self, files: Sequence[OutFile]) -> int:
        return 0

    def commit_bytes(self, files: Sequence[OutFile]) -> int:
        return 0


class DiskSink:
    """A `.part` file, which tasks write to at the same time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held, self._start = bytearray(), 0  # small writes that follow one another
        self._begin, self._end, self._bytes = 1 << 62, 0, 0  # of all that was written

    def write(self, data: Any, offset: int) -> None:
        if self._held and offset != self._start + len(self._held):
            self._write_held()
        view = memoryview(data).cast("B")
        self._begin, self._end = min(self._begin, offset), max(self._end, offset + len(view))
        self._bytes += len(view)
        if len(view) > _SMALL:
            self._write_held()
            write_all(self._fd, view, offset)
            return
        if not self._held:
            self._start = offset
        self._held += view
        if len(self._held) >= _HELD:
            self._write_held()

    def _write_held(self) -> None:
        if self._held:
            write_all(self._fd, self._held, self._start)
            self._held = bytearray()

    def finish(self, durable: bool) -> None:
        """With `durable`, the pages have left this machine when it returns."""
        self._write_held()
        if durable:
            owned.sync_data(self._fd)
        elif self._end - self._begin <= 2 * self._bytes:  # not what others write between
            owned.write_back(self._fd, self._begin, self._end - self._begin)

    def keep(self, key: str, receipt: Callable[[], bytes]) -> None:
        pass  # an unfinished file ends with its run

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
