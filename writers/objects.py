"""Objects in a store, and uploads of them in parts, on whatever file system fsspec can write to.

`Objects` is what a bucket needs of a store. Here it is done with fsspec alone: the parts of an
upload are objects of their own, and `complete` streams them into the final one, which appears when
its writer is committed (`autocommit=False`). What must not be there before is made in the drivers'
own way (`mode="create"`, "xb"); no driver has a condition for what is replaced, which is looked at
before. Stores that put parts together themselves have a module of their own (`azure`, `google`,
`s3`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from anamnesis.readers.urls import CutShort, call, driver, translated

Parts = Sequence[tuple[int, str]]  # number from 1 on, ETag
AT_A_TIME = 16  # objects that are removed
PAGE = 1000  # names in an answer that lists some

T = TypeVar("T")


class Besides(NamedTuple):
    """Requests that an upload takes besides its parts; to write are POST, PUT and listings."""

    reads: int
    writes: int
    removals: int


class Objects(Protocol):
    """Operations by URL. Raises OSError; FileExistsError where a condition does not hold."""

    lists_uploads: bool  # of which other runs may have left some

    @staticmethod
    def besides(parts: int) -> Besides:
        """What an upload of so many parts takes, of which nothing fails."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names right below a prefix, which ends without a slash."""
        ...

    def size(self, url: str) -> int: ...

    def read(self, url: str, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)`: all of them, or an error."""
        ...

    def read_into(self, url: str, start: int, view: memoryview) -> None:
        """Fill `view` from byte `start`; holds little besides."""
        ...

    def get(self, url: str) -> tuple[bytes, str]:
        """All of a small object, and what tells its version."""
        ...

    def age(self, url: str) -> float:
        """Seconds since it was written, by the store's own clock; infinite where none tells."""
        ...

    def put(self, url: str, data: bytes, *, version: str | None = None, new: bool = False) -> str:
        """Write a small object; its version. `new`: only if there is none; or in place of one."""
        ...

    def remove(self, urls: Sequence[str]) -> None:
        """Remove objects, those that are there."""
        ...

    def begin(self, url: str, folder: str) -> str:
        """Begin an upload to `url`; what names it. `folder` is for what must be kept of it."""
        ...

    def part(self, url: str, upload: str, number: int, data: Any) -> str:
        """Send a part, again if need be; its ETag."""
        ...

    def parts(self, url: str, upload: str) -> set[tuple[int, str, int]]:
        """Number, ETag and size of the parts that are there; raises FileNotFoundError."""
        ...

    def complete(self, url: str, upload: str, parts: Parts, *, new: bool) -> None:
        """Make the object of its parts; nothing has its name before. `new`: only if none has."""
        ...

    def abort(self, url: str, upload: str) -> None:
        """Forget an upload and its parts, if it is there."""
        ...

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """`(URL, upload)` of those to URLs that begin so, neither complete nor aborted."""
        ...


class Driven:
    """Objects by an fsspec driver."""

    lists_uploads = False

    @staticmethod
    def besides(parts: int) -> Besides:
        pages = 1 + parts // PAGE
        return Besides(2 * parts + 1, 2 * pages + 1, parts)

    def __init__(self, root: str) -> None:
        """Open the driver of the store of which `root` is a URL; UnsupportedError without it."""
        self._fs, _ = driver(root)

    def names(self, folder: str) -> list[str]:
        path = self._path(folder)

        def listed() -> list[dict[str, Any]]:
            self._fs.invalidate_cache()
            found: list[dict[str, Any]] = self._fs.ls(path, detail=True)
            return found

        try:
            found = asked(folder, listed)
        except FileNotFoundError:
            return []
        names = [str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in found]
        return sorted(set(names) - {path.rpartition("/")[2]} if len(found) == 1 else set(names))

    def size(self, url: str) -> int:
        def info() -> int:
            self._fs.invalidate_cache()
            found = self._fs.info(self._path(url))
            if found.get("type") == "directory":
                raise FileNotFoundError(url)
            return int(found["size"])

        return asked(url, info)

    def read(self, url: str, start: int, stop: int) -> bytes:
        path, nbytes = self._path(url), stop - start

        def attempt() -> bytes:
            data = bytes(self._fs.cat_file(path, start=start, end=stop))
            if len(data) != nbytes:
                raise CutShort(f"{url}: {len(data):,} bytes came, of {nbytes:,} asked for")
            return data

        return call(url, attempt, nbytes)

    def read_into(self, url: str, start: int, view: memoryview) -> None:
        view[:] = self.read(url, start, start + len(view))

    def get(self, url: str) -> tuple[bytes, str]:
        data = bytes(asked(url, lambda: self._fs.cat_file(self._path(url))))
        return data, hashlib.md5(data, usedforsecurity=False).hexdigest()

    def age(self, url: str) -> float:
        """By what the store says of it, and of an object that is made for that."""
        probe = f"{url}.{secrets.token_hex(4)}"
        try:
            self.put(probe, b"")
            times = [asked(url, partial(self._fs.modified, self._path(u))) for u in (probe, url)]
        except NotImplementedError:
            return float("inf")
        finally:
            self.remove([probe])
        return float((times[0] - times[1]).total_seconds())

    def put(self, url: str, data: bytes, *, version: str | None = None, new: bool = False) -> str:
        path = self._path(url)
        if version is not None and self.get(url)[1] != version:
            raise FileExistsError(f"{url}: was written by another meanwhile")
        mode = "create" if new else "overwrite"
        asked(url, lambda: self._fs.pipe_file(path, bytes(data), mode=mode), len(data))
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def remove(self, urls: Sequence[str]) -> None:
        def remove(url: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                asked(url, partial(self._fs.rm_file, self._path(url)))

        for_each(urls, remove)

    def begin(self, url: str, folder: str) -> str:
        return f"{folder}/parts-{secrets.token_hex(4)}"

    def part(self, url: str, upload: str, number: int, data: Any) -> str:
        return self.put(f"{upload}/{number:05d}", bytes(data))

    def parts(self, url: str, upload: str) -> set[tuple[int, str, int]]:
        found = set()
        for name in self.names(upload):
            data, tag = self.get(f"{upload}/{name}")
            found.add((int(name), tag, len(data)))
        return found

    def complete(self, url: str, upload: str, parts: Parts, *, new: bool) -> None:
        if new and self._exists(url):
            raise FileExistsError(errno.EEXIST, "exists already", url)
        path, mode = self._path(url), "xb" if new else "wb"
        file: Any = asked(url, lambda: self._fs.open(path, mode, autocommit=False))
        try:
            for number, tag in parts:
                data, found = self.get(f"{upload}/{number:05d}")
                if found != tag:
                    raise OSError(errno.EIO, f"part {number:,} is not as it was sent", url)
                with _explained(url):
                    file.write(data)
            with _explained(url):
                file.close()
                file.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            # Drivers that know no `autocommit` complete a file when it is let go of unclosed.
            with contextlib.suppress(Exception):
                file.closed = True
            raise
        self.abort(url, upload)

    def abort(self, url: str, upload: str) -> None:
        self.remove([f"{upload}/{name}" for name in self.names(upload)])

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        return []

    def _exists(self, url: str) -> bool:
        try:
            self.size(url)
        except FileNotFoundError:
            return False
        return True

    def _path(self, url: str) -> str:
        return str(self._fs._strip_protocol(url))


def for_each(urls: Sequence[str], request: Callable[[str], object]) -> None:
    """Make a request of each URL, some at a time; raises the first error after those that fly."""
    count = min(AT_A_TIME, len(urls))
    if count < 2:
        for url in urls:
            request(url)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="amn-each") as pool:
        for _ in pool.map(request, urls):
            pass


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Errors of a driver's writer, which is asked once, as this package's own."""
    try:
        yield
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "was written by another meanwhile", url) from None
    except Exception as error:
        raise translated(url, error) from error


def asked(url: str, request: Callable[[], T], nbytes: int = 0) -> T:
    """`call`, which takes what drivers say of absence and conditions for what it is."""

    def attempt() -> T | OSError:
        try:
            return request()
        except FileNotFoundError:
            return FileNotFoundError(errno.ENOENT, "no such object", url)
        except FileExistsError:
            return FileExistsError(errno.EEXIST, "was written by another meanwhile", url)

    answer = call(url, attempt, nbytes)
    if isinstance(answer, OSError):
        raise answer
    return answer


__all__ = ["AT_A_TIME", "PAGE", "Besides", "Driven", "Objects", "Parts", "asked", "for_each"]
