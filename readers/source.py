"""Byte ranges of input files, read into the caller's own buffers.

Local inputs are read with `pread` and never mapped: a file that is truncated under a map kills the
process (SIGBUS), while `pread` returns short and can be reported. A path must name a regular file;
opening does not block on a FIFO, and every later read is checked against the identity seen at
opening. URLs go to `remote`, behind the same interface.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, Self

from anamnesis import stopping
from anamnesis.errors import FormatError, IntegrityError
from anamnesis.limits import KiB
from anamnesis.readers.base import FileId
from anamnesis.readers.closing import Closing

_PARTS = 1024  # buffers a call, the least that POSIX systems have as IOV_MAX in practice
# A read of so few bytes that begins where another ended is served from so many read at once.
_SMALL, _AHEAD = 4 * KiB, 64 * KiB
_STREAMS = 4  # of small reads in a file at a time: layers' codes, their scales, and so on
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
# A scheme, or a chain of them as fsspec has it: `simplecache::s3://bucket/key`.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"{_SCHEME}(::{_SCHEME})*://")
URL_WITHOUT_SLASHES = re.compile(r"(az|gs|hf|https?|s3):/?([^/].*)")


class SourceFile(Protocol):
    """An open input file; reads are positional, so threads may share one."""

    @property
    def path(self) -> str:
        """The path or URL, for messages and to open it again."""
        ...

    @property
    def id(self) -> FileId:
        """What it was when it was opened."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable buffer from `offset`; IntegrityError if the file ends before."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, for headers; the caller has checked the size."""
        ...

    def check_unchanged(self, expected: FileId | None = None) -> None:
        """Raise IntegrityError when the file is not the one that was opened at first."""
        ...

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def is_url(path: str) -> bool:
    """Whether `path` has the form of a URL, such as `https://…`, `s3://…` or `file://…`."""
    return _URL.match(path) is not None


def base_name(path: str) -> str:
    """The file name in a path or URL, which says what kind of file it should be."""
    if is_url(path):
        path = re.split("[?#]", path, maxsplit=1)[0]
    return os.path.basename(path)


def public_name(path: str) -> str:
    """A path or URL as it may be written into files: without password, signature or token.

    What of a path is not UTF-8, and so half of a surrogate pair in Python's text, is escaped.
    """
    path = path.encode("utf-8", "backslashreplace").decode()
    if not is_url(path):
        return path
    plain = re.split("[?#]", path, maxsplit=1)[0]
    return re.sub("://[^/@]*@", "://", plain)


def open_source(
    path: str, *, first_bytes: int | None = None, expected: FileId | None = None
) -> SourceFile:
    """Open a local path or a URL.

    `first_bytes` is what a remote file fetches at the first read; None suits headers. A remote file
    that was seen before is `expected` to be the same, which its answers show. Raises
    OSError, FormatError when it is no regular file, UnsupportedError when it cannot be read in
    ranges or its driver is not installed.
    """
    if not is_url(path):
        return LocalFile(path)
    from anamnesis.readers import remote, urls  # noqa: PLC0415 - fsspec is for URLs alone

    local = urls.local_path(path)
    if local is not None:
        return LocalFile(local)
    return remote.open_remote(path, first_bytes, expected)


def holding(path: str) -> AbstractContextManager[None]:
    """While this lasts, a URL is opened once for all who open it; nothing for a local path."""
    if not is_url(path):
        return nullcontext()
    from anamnesis.readers import remote, urls  # noqa: PLC0415 - fsspec is for URLs alone

    return nullcontext() if urls.local_path(path) is not None else remote.held(path)


def read_parts(file: SourceFile, offset: int, parts: Sequence[Any]) -> None:
    """Fill several buffers (uint8) with the bytes from `offset` on, one after the other.

    As few calls as there can be: of a local file one for a thousand of them.
    """
    if isinstance(file, LocalFile):
        file.read_parts(offset, parts)
        return
    for part in parts:
        file.read_into(offset, part)
        offset += len(part)


def ask_for(path: str, ranges: Iterable[tuple[int, int]]) -> None:
    """Let the system begin to read ranges of a local file, offsets and bytes.

    A hint, which waits for nothing; what is wrong with the file is said by who reads it.
    """
    with suppress(FormatError, OSError), LocalFile(path) as file:
        file.ask_for(ranges)


class LocalFile(Closing):
    """An open regular file on this machine."""

    def __init__(self, path: str | Path) -> None:
        """Open `path`; raises OSError, or FormatError when it is no regular file."""
        self.path = str(path)
        self._fd = os.open(self.path, _FLAGS)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{self.path}: not a regular file")
        except BaseException:
            os.close(self._fd)
            raise
        self.id = _identity(self.path, status)
        # Of each where its last small read ended, and what was read ahead: an offset, bytes.
        self._streams: list[tuple[int, int, bytes]] = [(-1, 0, b"")] * _STREAMS
        self._oldest = 0

    @property
    def size(self) -> int:
        return self.id.size

    def ask_for(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See `ask_for`."""
        if hasattr(os, "posix_fadvise"):
            for offset, nbytes in ranges:
                os.posix_fadvise(self._fd, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable buffer from `offset`; IntegrityError if the file ends before."""
        view = memoryview(buffer).cast("B")
        done = self._take_ahead(offset, view) if len(view) <= _SMALL else 0
        stopping.check()
        while done < len(view):
            done += self._read_some(offset + done, [view[done:]], len(view) - done)

    def _take_ahead(self, offset: int, view: memoryview) -> int:
        """Bytes that were had without a call of their own: all, or none.

        Small tensors lie one behind the other, and may be a million.
        """
        nbytes, stop, follows = len(view), offset + len(view), -1
        for number, (after, first, held) in enumerate(self._streams):
            if first <= offset and stop <= first + len(held):
                self._streams[number] = stop, first, held
                view[:] = held[offset - first : stop - first]
                return nbytes
            if after == offset:
                follows = number
        if follows < 0 or stop > self.size:
            self._streams[self._oldest] = stop, 0, b""
            self._oldest = (self._oldest + 1) % _STREAMS
            return 0
        room = bytearray(min(_AHEAD, self.size - offset))
        got = self._read_some(offset, [room], len(room))
        held = bytes(memoryview(room)[:got])
        self._streams[follows] = stop, offset, held
        if got < nbytes:
            return 0
        view[:] = held[:nbytes]
        return nbytes

    def read_parts(self, offset: int, parts: Sequence[Any]) -> None:
        """As `read_into`, into one buffer (uint8) after the other."""
        for first in range(0, len(parts), _PARTS):
            stopping.check()
            some = parts[first : first + _PARTS]
            want = sum(map(len, some))
            got = self._read_some(offset, some, want)
            offset += got
            if got < want:  # a signal, or the end of the file
                for part in some:
                    skipped = min(got, len(part))
                    got -= skipped
                    self.read_into(offset, part[skipped:])
                    offset += len(part) - skipped

    def _read_some(self, offset: int, parts: Sequence[Any], want: int) -> int:
        """Bytes that were read into the parts, at least one."""
        try:
            got = os.preadv(self._fd, parts, offset)
        except OSError as error:
            text = f"{error.strerror} at byte {offset:,}"
            raise OSError(error.errno, text, self.path) from error
        if got == 0 and want:
            raise IntegrityError(
                f"{self.path}: ended at byte {offset:,} while {want:,} more were expected; "
                f"it had {self.size:,} bytes when it was opened"
            )
        return got

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, for headers; the caller has checked the size."""
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self, expected: FileId | None = None) -> None:
        """Raise IntegrityError when the file is not the one that was opened at first."""
        now = _identity(self.path, os.fstat(self._fd))
        before = expected or self.id
        if now != before:
            raise IntegrityError(
                f"{self.path}: changed while it was read (size {before.size:,} -> {now.size:,} "
                f"bytes, mtime {before.mtime_ns} -> {now.mtime_ns} ns)"
            )

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _identity(path: str, status: os.stat_result) -> FileId:
    return FileId(path, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)
