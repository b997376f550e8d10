"""A limit on the address space (`ulimit -v`), under which C code ends the process by itself.

OpenBLAS and LLVM do not survive an allocation that fails. So what they need is looked for before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

from anamnesis.errors import LimitError

_M_ARENA_MAX = -8  # of mallopt(3)


def check(need_bytes: int, what: str) -> None:
    """LimitError where a limit on the address space leaves less than `need_bytes` for `what`.

    Where there is a limit, threads share the heaps of glibc that there are from here on: each new
    one would reserve 64 MiB of what was just counted.
    """
    limit = limit_bytes()
    if limit is None:
        return
    with contextlib.suppress(AttributeError, OSError):  # a C library without it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    try:
        with open("/proc/self/statm", "rb") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return
    left = max(0, limit - taken)
    if left < need_bytes:
        raise LimitError(
            f"the limit on the address space (ulimit -v) leaves {left:,} bytes; "
            f"{need_bytes:,} are needed {what}",
            limit="RLIMIT_AS",
            need=need_bytes,
            have=left,
        )


def limit_bytes() -> int | None:
    """The limit that somebody set on the address space of this process, in bytes."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
