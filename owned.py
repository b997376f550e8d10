"""How this program opens the files that it makes for itself: journals, locks, manifests, `.part`s.

They have names that anybody can know, in folders that may come from a stranger or be written by
one. A link in such a place would lend the stranger what the link leads to (a journal appended to a
start-up file of a shell is run by it), a FIFO would be waited for without end, and a device or a
file of gigabytes would fill the memory. So nothing is followed, nothing is waited for, and size,
kind and owner are looked at on the open descriptor, before the first byte. A test of the walls
(`tests/test_architecture.py`) shows that nothing opens such a file by other means.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from anamnesis.errors import IntegrityError, LimitError, SecurityError

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# What a file system answers that has no such sync: `fsync` of a folder on CIFS and on some in user
# space, where names are as durable as it makes them by itself, and `F_FULLFSYNC` on macOS.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY)
# What a folder answers that takes no files: of a mount for reading, of another user, of /proc.
_NO_PLACE = (errno.EACCES, errno.ENOENT, errno.EPERM, errno.EROFS)

_unfinished: dict[str, None] = {}  # in the order they were made


def create(path: str | Path, mode: int = 0o666) -> int:
    """A descriptor for a new file, to read and write; FileExistsError where any name is.

    It is unfinished until `settle` says otherwise, and removed by `remove_unfinished`.
    """
    with _in_folder_of(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    _unfinished[os.path.abspath(path)] = None
    return fd


def make_folder(path: str | Path) -> None:
    """Make a folder, which `remove_unfinished` removes again while it is empty."""
    with _in_folder_of(path):
        os.mkdir(path)
    _unfinished[os.path.abspath(path)] = None


@contextlib.contextmanager
def _in_folder_of(path: str | Path) -> Iterator[None]:
    """Where a folder takes no files, name it and a way out; people know no name of a lock."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        said = f"{error.strerror}: nothing can be made in this folder; name another output"
        raise OSError(error.errno, said, os.path.dirname(path) or ".") from None


def check_place(folder: str | Path) -> None:
    """Raise as `create` does where a folder takes no files; nothing is made."""
    if os.access(folder, os.W_OK | os.X_OK):
        return
    number = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    with _in_folder_of(os.path.join(folder, "file")):
        raise OSError(number, os.strerror(number))


def settle(*paths: str | Path) -> None:
    """What was made under these names is complete, has another name, or is gone."""
    for path in paths:
        _unfinished.pop(os.path.abspath(path), None)


def remove_unfinished() -> None:
    """Before the process ends itself: remove what no code is going to finish or remove."""
    for path in reversed(tuple(_unfinished)):
        with contextlib.suppress(OSError):
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)


def open_owned(
    path: str | Path, flags: int, max_bytes: int, *, mode: int = 0o666, strangers: bool = False
) -> int:
    """A descriptor for a file of this program's that may be there already.

    `flags` are those of `os.open`, without `O_TRUNC`. `max_bytes` is the most that such a file
    ever holds. With `strangers`, it may belong to anybody: its content is not trusted then.

    Raises SecurityError for a link, for what is no regular file, for another's file, and where it
    is to be written, for one with a second name; LimitError for a larger one; OSError.
    """
    path = os.fspath(path)
    try:
        fd = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            raise SecurityError(_refusal(path, "is a link")) from None
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EISDIR):  # nobody reads that FIFO
            raise SecurityError(_refusal(path, "is not a regular file")) from None
        raise
    try:
        _check(path, os.fstat(fd), flags & os.O_ACCMODE != os.O_RDONLY, max_bytes, strangers)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_owned(path: str | Path, max_bytes: int, *, strangers: bool = False) -> bytes:
    """All of such a file. Raises as `open_owned`, IntegrityError when it is cut meanwhile."""
    fd = open_owned(path, os.O_RDONLY, max_bytes, strangers=strangers)
    with open(fd, "rb", buffering=0) as file:
        data = bytearray(os.fstat(fd).st_size)
        view = memoryview(data)
        while view:
            got = file.readinto(view)
            if not got:
                raise IntegrityError(f"{path}: ended {len(view):,} bytes early: it was cut")
            view = view[got:]
    return bytes(data)


def lines(fd: int, most: int) -> Iterator[bytes]:
    """The lines of a file that are no longer than `most` bytes; closes the descriptor."""
    with open(fd, "rb") as file:
        whole = True  # whether the line before ended where it was cut
        while line := file.readline(most):
            if whole and line.endswith(b"\n"):
                yield line
            whole = line.endswith(b"\n")


def open_finished(path: str | Path) -> int:
    """A descriptor to read a finished output, which its user may have put elsewhere and linked.

    Raises SecurityError for what is no regular file, and OSError.
    """
    fd = os.open(path, os.O_RDONLY | (_FLAGS & ~os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SecurityError(_refusal(os.fspath(path), "is not a regular file"))
    return fd


def open_part(path: str | Path) -> int:
    """A descriptor to write windows into a `.part` that the client of this run has just made.

    On another machine the client may have another number there, so that the owner tells nothing.
    """
    return open_owned(path, os.O_WRONLY, 1 << 62, strangers=True)


def sync(fd: int) -> None:
    """Make a file's bytes durable: on the medium, not in a drive's cache.

    On macOS `fsync` hands them to the drive only, and `F_FULLFSYNC` asks the drive to write them
    (its fsync(2)); file systems without that, such as SMB, have to make do with `fsync`. Any other
    failure is final: a second sync may find the pages dropped and say that all is well.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(fd, full)
            return
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
    os.fsync(fd)


def sync_data(fd: int) -> None:
    """`sync` without times and other facts about the file, where the system tells them apart."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        sync(fd)


def write_back(fd: int, offset: int, nbytes: int) -> None:
    """Let the system begin to bring these bytes to the medium, so that a sync finds little left.

    A hint, which waits for nothing and may be refused: pages that nobody needs any more are written
    by Linux at once (and let go of, where they are written already).
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: str | Path) -> None:
    """Make the names in `folder` durable, where its file system can."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(fd)


def _check(
    path: str, status: os.stat_result, writes: bool, max_bytes: int, strangers: bool
) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecurityError(_refusal(path, "is not a regular file"))
    if writes and status.st_nlink > 1:
        raise SecurityError(_refusal(path, f"has {status.st_nlink} names (hard links)"))
    if not strangers and not _is_ours(path, status):
        raise SecurityError(_refusal(path, f"belongs to user {status.st_uid}"))
    if status.st_size > max_bytes:
        raise LimitError(
            f"{path}: has {status.st_size:,} bytes; what this program writes there has never more "
            f"than {max_bytes:,}; remove it",
            limit="owned.max_bytes",
            need=status.st_size,
            have=max_bytes,
        )


def _is_ours(path: str, status: os.stat_result) -> bool:
    """Whether a file is the user's, or the folder's owner's, who could replace it at any time.

    On some network file systems what a user makes is shown as another's, folders as well as files.
    """
    if status.st_uid == os.geteuid():
        return True
    return status.st_uid == os.stat(os.path.dirname(path) or ".").st_uid


def _refusal(path: str, what: str) -> str:
    return f"{path}: {what}, and none of this program's making; remove it and run again"
