"""One run an output at a time, where the output is in a store: an object that is renewed.

Whoever makes `.NAME.anamnesis.lock` first (`If-None-Match: *`) holds the output, and writes it
again (`If-Match`) every `RENEW_SECONDS`. A lock of a process of this machine that is gone, or one
that was not renewed for `LEASE_SECONDS` by the store's own clock, is taken over, again on the
condition that nobody else did. A run that lost its lock completes nothing any more.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from pathlib import PurePath

import msgspec

from anamnesis.errors import UsageError, printable
from anamnesis.writers.objects import Objects

RENEW_SECONDS, LEASE_SECONDS = 20.0, 90.0


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: a process, on a machine since it was started, in its own numbering."""

    host: str
    machine: str
    pid: int
    token: str


class Lease:
    """The lock of the output at `out`."""

    def __init__(self, objects: Objects, out: PurePath) -> None:
        self._objects, self._out = objects, str(out)
        self._url = str(out.with_name(f".{out.name}.anamnesis.lock"))
        token = secrets.token_hex(8)
        holder = Holder(socket.gethostname(), _machine(), os.getpid(), token)
        self._data = msgspec.json.encode(holder)
        self._version = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="amn-lease", daemon=True)
        self._lost = False

    def __enter__(self) -> Lease:
        try:
            self._version = self._objects.put(self._url, self._data, new=True)
        except FileExistsError:
            self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._objects.get(self._url)[0] == self._data:
                self._objects.remove([self._url])

    def check(self) -> None:
        """UsageError when another run has taken the output."""
        with contextlib.suppress(FileNotFoundError):
            if not self._lost and self._objects.get(self._url)[0] == self._data:
                return
        raise UsageError(f"{self._out}: another run has taken it over (lock {self._url})")

    def _take_over(self) -> None:
        data, version = self._objects.get(self._url)
        if data == self._data:  # the answer to our own request was lost, and it was made again
            self._version = version
            return
        try:
            holder = msgspec.json.decode(data, type=Holder)
        except msgspec.MsgspecError:
            holder = Holder("unknown", "", 0, "")
        age = self._objects.age(self._url)
        if not _is_gone(holder) and age < LEASE_SECONDS:
            who = printable(f"process {holder.pid} on {holder.host}")
            raise UsageError(
                f"{self._out}: another run is writing it ({who}, {age:.0f} s ago), or was killed "
                f"less than {LEASE_SECONDS:.0f} s ago (lock {self._url})"
            )
        try:
            self._version = self._objects.put(self._url, self._data, version=version)
        except (FileExistsError, FileNotFoundError):
            raise UsageError(f"{self._out}: another run is writing it (lock {self._url})") from None

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                try:
                    self._version = self._objects.put(self._url, self._data, version=self._version)
                except FileExistsError:
                    data, self._version = self._objects.get(self._url)
                    if data != self._data:  # else our answer was lost, and the request made again
                        raise
            except (FileExistsError, FileNotFoundError):
                self._lost = True
                return
            except OSError:
                continue  # not now; `check` asks again before anything is completed


def _machine() -> str:
    """What tells this machine, its start and its numbering of processes; "" where none does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_gone(holder: Holder) -> bool:
    """Whether a lock is of a process that ran on this machine and has ended."""
    if holder.host != socket.gethostname() or not holder.machine or holder.machine != _machine():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


__all__ = ["Lease"]
