"""Counts the system calls of this process that change files, and makes one of them fail.

The calls are `os.pwrite`, `write`, `fsync`, `fdatasync`, `ftruncate`, `rename`, `unlink`, `mkdir`,
`rmdir`, and `open` when it creates. The Nth of them

- fails with an errno;
- is where the process is killed: before it, after it, or with half of the bytes written;
- is where the power fails: what was not synced is lost. The bytes of every write since the file's
  last `fsync` become zero; names since the folder's last `fsync` stay as they are, or are all
  undone.

A failing `close` and a short `pwrite` are in `tests/writers/test_part.py`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT}
KILLS = ("kill before", "kill after", "kill halfway")
POWER = ("power, names kept", "power, names lost")
KINDS = (*KILLS, *POWER, *ERRORS)
OF_PATHS = ("rename", "unlink", "mkdir", "rmdir", "open")
CALLS = (*OF_PATHS, "pwrite", "write", "fsync", "fdatasync", "ftruncate")


class Shim:
    """Counts calls of this process, and makes the one numbered `at` fail in the way of `kind`."""

    def __init__(self, root: Path, at: int = 0, kind: str = "") -> None:
        self.root, self.at, self.kind = root, at, kind
        self.trace: list[tuple[str, str]] = []  # (call, path)
        self.real = {name: getattr(os, name) for name in CALLS}
        self._unsynced: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        self._undo: dict[str, list[Callable[[], None]]] = {}
        self._lock = RLock()
        self._kept = root / ".undo"

    def install(self) -> None:
        if self.kind in POWER:
            self._kept.mkdir(exist_ok=True)
        for name in CALLS:
            setattr(os, name, self._wrapper(name))

    def _wrapper(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = self._path(name, args)
            if not path.startswith(str(self.root)) or (name == "open" and not _creates(args)):
                return self.real[name](*args, **kwargs)
            with self._lock:
                self.trace.append((name, path))
                if len(self.trace) == self.at:
                    self._fault(name, args, kwargs)
                if self.kind in POWER:
                    self._remember(name, path, args)
                result = self.real[name](*args, **kwargs)
                if self.kind in POWER and name in ("pwrite", "write"):
                    self._written(args, result)
            return result

        return call

    def _path(self, name: str, args: tuple[Any, ...]) -> str:
        if name in OF_PATHS:
            return str(os.path.abspath(os.fspath(args[0])))
        return os.readlink(f"/proc/self/fd/{args[0]}")

    def _fault(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Two threads make these calls, so that the Nth is not always the same.
        (self.root.parent / "fault").write_text(json.dumps(self.trace[-1]))
        if self.kind in ERRORS:
            code = ERRORS[self.kind]
            raise OSError(code, os.strerror(code))
        if self.kind in POWER:
            self._lose()
        if self.kind == "kill halfway" and name in ("pwrite", "write"):
            data = memoryview(args[1]).cast("B")
            self.real[name](args[0], data[: len(data) // 2], *args[2:])
        elif self.kind == "kill after":
            with contextlib.suppress(FileNotFoundError):
                self.real[name](*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    def _written(self, args: tuple[Any, ...], count: int) -> None:
        status = os.fstat(args[0])
        at = args[2] if len(args) > 2 else status.st_size - count
        log = self._unsynced.setdefault((status.st_dev, status.st_ino), [])
        log.append((os.dup(args[0]), at, count))

    def _remember(self, name: str, path: str, args: tuple[Any, ...]) -> None:
        """How to lose what this call does, or that it makes something safe."""
        if name in ("fsync", "fdatasync"):
            status = os.fstat(args[0])
            self._unsynced.pop((status.st_dev, status.st_ino), None)
            self._undo.pop(path, None)
        elif name == "rename":
            target = os.path.abspath(os.fspath(args[1]))
            before = self._keep(target)
            self._undo.setdefault(os.path.dirname(path), []).append(
                lambda: self._rename_back(path, target, before)
            )
        elif name == "unlink":
            before = self._keep(path)
            if before:
                self._undo.setdefault(os.path.dirname(path), []).append(
                    lambda: self.real["rename"](before, path)
                )
        elif name in ("open", "mkdir") and not os.path.lexists(path):
            remove = self.real["unlink" if name == "open" else "rmdir"]
            self._undo.setdefault(os.path.dirname(path), []).append(lambda: remove(path))

    def _keep(self, path: str) -> str:
        if not os.path.exists(path):
            return ""
        copy = f"{self._kept}/{len(self.trace)}"
        os.link(path, copy)
        return copy

    def _rename_back(self, source: str, target: str, before: str) -> None:
        self.real["rename"](target, source)
        if before:
            self.real["rename"](before, target)

    def _lose(self) -> None:
        for log in self._unsynced.values():
            for fd, offset, count in log:
                fresh = self.real["open"](f"/proc/self/fd/{fd}", os.O_WRONLY)
                self.real["pwrite"](fresh, bytes(count), offset)
        if self.kind == "power, names lost":
            # Folders last: they are empty when what was made in them is gone.
            for folder in sorted(self._undo, key=len, reverse=True):
                for undo in reversed(self._undo[folder]):
                    with contextlib.suppress(FileNotFoundError):  # a folder that is gone for good
                        undo()


def _creates(args: tuple[Any, ...]) -> bool:
    return len(args) > 1 and bool(args[1] & os.O_CREAT)
