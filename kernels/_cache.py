"""Where compiled kernels are kept, and files there that are whole or not used at all.

What is loaded from here is run as machine code. So every folder on the way has to be the user's or
the machine's own and nobody else's to write: whoever may write one of them can put another below
it. A file is complete or has another name, and its first line is a checksum of its own name, of
the kernels' sources and of the rest, which a copy of another kernel's file does not have either.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from anamnesis import owned
from anamnesis.errors import AnamnesisError

_MAX_BYTES = 1 << 26
_MAX_LINKS = 40  # as the kernel follows in one path
_FORGET_SECONDS = 30 * 24 * 3600


def _folder() -> str | None:
    """A writable folder named by a digest of every kernel source and data file, or None.

    The digest in the path makes a change to any of them start a new folder.
    """
    digest = hashlib.blake2b(digest_size=8)
    here = Path(__file__).parent
    for source in sorted([*here.glob("**/*.py"), *here.glob("data/*.npy")]):
        digest.update(source.read_bytes())
    base = os.environ.get("ANAMNESIS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "anamnesis"
    )
    for root in (base, os.path.join(tempfile.gettempdir(), f"anamnesis-{os.getuid()}")):
        folder = os.path.abspath(os.path.join(root, "kernels", digest.hexdigest()))
        try:
            new = _make(folder)
            if not _is_safe(folder) or not os.access(folder, os.W_OK):
                continue
            if new:
                _forget(Path(folder).parent)
        except OSError:
            continue
        return folder
    return None


def _make(folder: str) -> bool:
    """Make a folder and what is missing above it, for the user alone; whether it was missing."""
    if os.path.isdir(folder):
        return False
    _make(os.path.dirname(folder))
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    return True


def _is_safe(path: str, links: int = 0) -> bool:
    """Whether nobody but the user and root can change what is found at an absolute path.

    Every component is looked at, and what links lead to; the last one is a folder of the user's.
    """
    status = os.lstat(path)
    for prefix in _prefixes(path):
        status = os.lstat(prefix)
        if status.st_uid not in (0, os.getuid()):
            return False
        if stat.S_ISLNK(status.st_mode):
            target = os.path.join(os.path.dirname(prefix), os.readlink(prefix))
            rest = path[len(prefix) :]
            return links < _MAX_LINKS and _is_safe(os.path.abspath(target + rest), links + 1)
        if _others_write(status) and not status.st_mode & stat.S_ISVTX:
            return False
    # The last one was made for the user alone, and holds what is run.
    return status.st_uid == os.getuid() and not _others_write(status)


def _prefixes(path: str) -> Iterator[str]:
    """`/`, `/a`, `/a/b` of `/a/b`."""
    yield os.sep
    for at in range(1, len(path) + 1):
        if at == len(path) or path[at] == os.sep:
            yield path[:at]


def _others_write(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid)


def _is_private_group(gid: int) -> bool:
    """Whether a group is the one that many systems make with a user, and for that user alone."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return (
        user.pw_gid == gid
        and group.gr_name == user.pw_name
        and not set(group.gr_mem) - {user.pw_name}
    )


def _forget(folder: Path) -> None:
    """Remove what other versions left here, and have not added to for a while."""
    for other in folder.iterdir():
        if re.fullmatch("[0-9a-f]{16}", other.name) and not other.is_symlink():
            with contextlib.suppress(OSError):
                if other.stat().st_mtime < time.time() - _FORGET_SECONDS:
                    shutil.rmtree(other)


FOLDER = _folder()


def read(name: str) -> bytes | None:
    """What `write` was given for this name, or None: not there, not ours, or damaged."""
    if FOLDER is None:
        return None
    try:
        data = owned.read_owned(os.path.join(FOLDER, name), _MAX_BYTES)
        status = os.lstat(os.path.join(FOLDER, name))
    except (OSError, AnamnesisError):
        return None
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    line, _, content = data.partition(b"\n")
    return content if line == _checksum(name, content) else None


def write(name: str, data: bytes) -> None:
    """Keep `data` under a name; nothing happens where that fails.

    Several processes may write one name at a time: each file is whole before it gets its name.
    """
    if FOLDER is None:
        return
    part = os.path.join(FOLDER, f"{name}.{secrets.token_hex(4)}.part")
    with contextlib.suppress(OSError):
        fd = owned.create(part, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(_checksum(name, data) + b"\n" + data)
            os.replace(part, os.path.join(FOLDER, name))
        except OSError:
            os.unlink(part)
            raise
        finally:
            owned.settle(part)


def _checksum(name: str, data: bytes) -> bytes:
    """Of what a file holds and of the place it is meant for: the folder's name is the sources'."""
    key = f"{os.path.basename(FOLDER or '')}/{name}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return hashlib.blake2b(data, digest_size=16, key=digest).hexdigest().encode()
