"""Outputs in a store of objects: whole objects, conditions in place of locks, no folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

import msgspec

from anamnesis.errors import LimitError
from anamnesis.writers import FOLDER, WRITERS
from anamnesis.writers.azure import Azure
from anamnesis.writers.base import OutFile, WriterModule, compare_known
from anamnesis.writers.google import Google
from anamnesis.writers.lease import Lease
from anamnesis.writers.objects import Driven, Objects, for_each
from anamnesis.writers.part import final_name
from anamnesis.writers.s3 import S3
from anamnesis.writers.stores import Packing, Unfinished, located
from anamnesis.writers.stream import PackSink
from anamnesis.writers.upload import (
    HELD_PARTS,
    JOINED,
    PART_BYTES,
    Upload,
    confirm,
    most_bytes,
    part_bytes,
    receipt_name,
    remove_folder,
    state_of,
)
from anamnesis.writers.upload_sink import UploadSink

# Stores whose own protocol does more than fsspec's interface can say; by the protocol of a URL.
_STORES: dict[str, type[Azure | Google | S3]] = {
    "abfs": Azure,
    "abfss": Azure,
    "az": Azure,
    "gcs": Google,
    "gs": Google,
    "s3": S3,
    "s3a": S3,
}

_WEIGHTS = tuple(row.suffix for row in WRITERS.values() if row.suffix != FOLDER)


def kind_of(url: str) -> type[Azure | Driven | Google | S3]:
    """What does operations on the objects of a URL's store."""
    return _STORES.get(url.partition("://")[0].lower(), Driven)


class Bucket:
    """The store of which `root` is a URL: a protocol and what comes before the first slash."""

    moves = False
    packs = True

    def __init__(self, root: str) -> None:
        self._root = root
        self._objects: Objects = kind_of(root)(root)
        self._leases: dict[str, Lease] = {}
        self._joining = Lock()

    def exists(self, path: PurePath) -> bool:
        try:
            self._objects.size(str(path))
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: PurePath) -> list[str]:
        return self._objects.names(str(folder))

    def size(self, path: PurePath) -> int:
        return self._objects.size(str(path))

    def read(self, path: PurePath, max_bytes: int, *, strangers: bool = False) -> bytes:
        self._limit(path, max_bytes)
        return self._objects.get(str(path))[0]

    def write(self, path: PurePath, pieces: Iterable[bytes | memoryview]) -> None:
        """Small files are sent whole; one that is more than a part, as an upload."""
        url, held = str(path), bytearray()
        upload, tags = "", list[tuple[int, str]]()
        try:
            for piece in pieces:
                held += piece
                while len(held) > PART_BYTES:
                    upload = upload or self._objects.begin(url, f"{self._folder(path)}")
                    number = len(tags) + 1
                    tag = self._objects.part(url, upload, number, bytes(held[:PART_BYTES]))
                    tags.append((number, tag))
                    del held[:PART_BYTES]
            if not upload:
                self._objects.put(url, bytes(held))
                return
            number = len(tags) + 1
            tags.append((number, self._objects.part(url, upload, number, bytes(held))))
            self._objects.complete(url, upload, tags, new=False)
        except BaseException:
            if upload:
                self._objects.abort(url, upload)
            raise

    def remove(self, path: PurePath) -> None:
        self._objects.remove([str(path)])

    def link(self, path: PurePath, name: PurePath) -> bool:
        return False

    def append(self, path: PurePath, lines: bytes, max_bytes: int) -> None:
        """Write the log again with the lines; it is as it was, or whole with them."""
        try:
            before, version = self._objects.get(str(path))
        except FileNotFoundError:
            before, version = b"", None
        if len(before) + len(lines) > max_bytes:
            raise LimitError(
                f"{path}: has {len(before):,} bytes; no more than {max_bytes:,} are read again",
                limit="owned.max_bytes",
                need=len(before) + len(lines),
                have=max_bytes,
            )
        after = before + lines
        try:
            self._objects.put(str(path), after, version=version, new=version is None)
        except FileExistsError:  # also when our own answer was lost, and the request made again
            if self._objects.get(str(path))[0] != after:
                raise

    def lines(self, path: PurePath, most: int, max_bytes: int) -> Iterator[bytes]:
        try:
            data = self.read(path, max_bytes)
        except FileNotFoundError:
            return
        yield from (line for line in data.splitlines(keepends=True) if len(line) <= most)

    def check(self, module: WriterModule, path: PurePath, out: OutFile) -> None:
        """The size and every byte that was known beforehand are what was laid out.

        Of a packed file, what its own module looks at.
        """
        if out.packer:
            module.check(path, out)
            return
        url = str(path)
        size = self._objects.size(url)

        def read(offset: int, nbytes: int) -> bytes:
            return self._objects.read(url, offset, offset + nbytes) if nbytes else b""

        compare_known(path, size, read, out)

    def lock(
        self, out: PurePath, note: Callable[[str], None] | None = None
    ) -> AbstractContextManager[Any]:
        lease = self._leases[str(out)] = Lease(self._objects, out)
        return lease

    def make_folders(self, folders: Sequence[PurePath]) -> list[Path]:
        return []  # a name may hold slashes; there are no folders

    def clear(self, finals: Sequence[PurePath], folder: PurePath | None, keep: str) -> None:
        """Abort uploads and remove what belongs to them, but for those of the run `keep`.

        In `folder`, which is one output's own, those of runs that cut it into other files as well:
        what has an unfinished file there, and uploads to names that weights have.
        """
        parents = {final.parent for final in finals} | ({folder} if folder is not None else set())
        wanted = {final.name for final in finals}
        urls = {str(final): final for final in finals}
        for parent in parents:
            for name in self._objects.names(str(parent)):
                of = final_name(name)
                kept = keep and of and self.part(parent / of, keep).name == name
                if of and (of in wanted or parent == folder) and not kept:
                    urls.setdefault(str(parent / of), parent / of)
                    remove_folder(self._objects, str(parent / name))
        prefix = _shared(list(urls)) if folder is None else str(folder)
        for url, upload in self._objects.uploads(prefix):
            inside = folder is not None and url.rpartition("/")[0] == str(folder)
            final = urls.get(url)
            if final is None and inside and url.endswith(_WEIGHTS):
                final = located(url)
            if final is None:
                continue
            if not keep or upload != self._known_upload(self.part(final, keep)):
                self._objects.abort(url, upload)

    def check_space(self, files: Sequence[OutFile]) -> list[str]:
        return []  # a store has no end

    def part(self, final: PurePath, run: str) -> PurePath:
        return final.with_name(f".{final.name}.{run[:8]}.part")

    def create(self, out: OutFile, part: PurePath, *, overwrite: bool) -> Unfinished:
        def still() -> None:
            self._still(out.path)

        return Upload(self._objects, out, str(part), overwrite, still, self._joining)

    def found(self, part: PurePath) -> list[bytes]:
        """Those of the upload that is there; late tasks may have left some of another."""
        folder, found = str(part), dict[str, bytes]()
        names = [name for name in self._objects.names(folder) if name.startswith("task-")]
        if not names:
            return []

        def read(url: str) -> None:
            with suppress(FileNotFoundError):  # a late task takes its own away again
                found[url] = self._objects.get(url)[0]

        try:
            own = receipt_name("", state_of(self._objects, folder))
        except (FileNotFoundError, msgspec.MsgspecError):
            return []
        urls = [f"{folder}/{name}" for name in names if name.endswith(own)]
        for_each(urls, read)
        return [found[url] for url in urls if url in found]

    def keep(self, part: PurePath, name: str, data: bytes) -> None:
        self._objects.put(f"{part}/{name}", data)
        confirm(self._objects, str(part), [name])

    def open_part(self, part: PurePath) -> UploadSink:
        return UploadSink(self._objects, str(part))

    def open_pack(self, part: PurePath) -> Packing:
        return PackSink(self._objects, str(part))

    def reach(self, folder: PurePath) -> None:
        """Asked once: an answer that does not come now is what a person wants to know."""
        objects = S3(self._root, attempts=1) if isinstance(self._objects, S3) else self._objects
        objects.names(str(folder))

    def task_bytes(self, files: Sequence[OutFile]) -> int:
        return HELD_PARTS * _part_bytes(files)

    def commit_bytes(self, files: Sequence[OutFile]) -> int:
        joined: int = JOINED * PART_BYTES
        return max(joined, _part_bytes(files))

    def _still(self, url: str) -> None:
        """Ask the locks that are held around an object whether they still are."""
        for out, lease in self._leases.items():
            if url == out or url.startswith(f"{out}/"):
                lease.check()

    def _known_upload(self, part: PurePath) -> str:
        try:
            return state_of(self._objects, str(part)).upload
        except (FileNotFoundError, msgspec.MsgspecError):
            return ""

    def _folder(self, path: PurePath) -> str:
        return str(self.part(path, "00000000"))

    def _limit(self, path: PurePath, max_bytes: int) -> None:
        size = self._objects.size(str(path))
        if size > max_bytes:
            raise LimitError(
                f"{path}: has {size:,} bytes; what this program writes there has never more than "
                f"{max_bytes:,}; remove it",
                limit="owned.max_bytes",
                need=size,
                have=max_bytes,
            )


def _part_bytes(files: Sequence[OutFile]) -> int:
    """The size of the largest parts."""
    return max((part_bytes(most_bytes(file)) for file in files), default=0)


def _shared(urls: Sequence[str]) -> str:
    """What all of them begin with."""
    first, last = min(urls), max(urls)
    same = next(
        (n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None
    )
    return first if same is None else first[:same]


__all__ = ["Bucket", "kind_of"]
