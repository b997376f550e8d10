"""Where compiled kernels are kept, and files there that are whole or not used at all.

What is loaded from here is run as machine code, so the folder and its files have to be the user's
own and nobody else's to write, a file is complete or has another name, and its first line is a
checksum of the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

_MAX_BYTES = 1 << 26
_FORGET_SECONDS = 30 * 24 * 3600


def _folder() -> str | None:
    """A writable folder named by a digest of every kernel source and data file, or None.

    The digest in the path makes a change to any of them start a new folder.
    """
    digest = hashlib.blake2b(digest_size=8)
    here = Path(__file__).parent
    for source in sorted([*here.glob("*.py"), *here.glob("data/*.npy")]):
        digest.update(source.read_bytes())
    base = os.environ.get("ANAMNESIS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "anamnesis"
    )
    for root in (base, os.path.join(tempfile.gettempdir(), f"anamnesis-{os.getuid()}")):
        folder = os.path.join(root, "kernels", digest.hexdigest())
        try:
            if not os.path.isdir(folder):
                os.makedirs(folder, mode=0o700, exist_ok=True)
                if root == base:  # where others may write, a link could lead anywhere
                    _forget(Path(root, "kernels"))
            status = os.stat(folder)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and _is_ours(status):
            return folder
    return None


def _forget(folder: Path) -> None:
    """Remove what other versions left here, and have not added to for a while."""
    for other in folder.iterdir():
        if re.fullmatch("[0-9a-f]{16}", other.name) and not other.is_symlink():
            with contextlib.suppress(OSError):
                if other.stat().st_mtime < time.time() - _FORGET_SECONDS:
                    shutil.rmtree(other)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


FOLDER = _folder()


def read(name: str) -> bytes | None:
    """What `write` was given for this name, or None: not there, not ours, or damaged."""
    if FOLDER is None:
        return None
    try:
        fd = os.open(os.path.join(FOLDER, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
                return None
            line, data = file.readline(100), file.read(_MAX_BYTES)
    except OSError:
        return None
    return data if line == _checksum(data) else None


def write(name: str, data: bytes) -> None:
    """Keep `data` under a name; nothing happens where that fails.

    Several processes may write one name at a time: each file is whole before it gets its name.
    """
    if FOLDER is None:
        return
    with contextlib.suppress(OSError):
        fd, part = tempfile.mkstemp(prefix=name, suffix=".part", dir=FOLDER)
        try:
            with open(fd, "wb") as file:
                file.write(_checksum(data) + data)
            os.replace(part, os.path.join(FOLDER, name))
        except OSError:
            os.unlink(part)
            raise


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode() + b"\n"
