"""Two folders change places, so that a reader finds the one or the other under a name, never none.

Linux has `renameat2(…, RENAME_EXCHANGE)` (https://man7.org/linux/man-pages/man2/rename.2.html),
macOS `renamex_np(…, RENAME_SWAP)`. Where neither is, or the file system cannot (NFS, some of FUSE),
it takes three renames, and `finish_exchange` mends what a kill between them leaves.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_EXCHANGE = _SWAP = 2
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(new: Path, old: Path) -> None:
    """Swap the names of two folders that lie beside one another."""
    if not swapped(os.fsencode(new), os.fsencode(old)):
        os.rename(old, _spare(new))
        os.rename(new, old)
        os.rename(_spare(new), new)


def finish_exchange(new: Path, old: Path) -> None:
    """Mend what an `exchange` of three renames left that was killed between them."""
    spare = _spare(new)
    if spare.is_dir() and not spare.is_symlink():
        if not os.path.lexists(old):
            os.rename(spare, old)
        elif not os.path.lexists(new):
            os.rename(spare, new)


def swapped(new: bytes, old: bytes) -> bool:
    """Swap two names in one step; False when this system or file system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(new, old, _SWAP)
        else:
            failed = libc.renameat2(_AT_FDCWD, new, _AT_FDCWD, old, _EXCHANGE)
    except (OSError, AttributeError):  # a C library without the call
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), os.fsdecode(new), None, os.fsdecode(old))


def _spare(new: Path) -> Path:
    return new.with_name(f"{new.name}-old")


__all__ = ["exchange", "finish_exchange", "swapped"]
