"""That somebody wants the command to end: a flag, the loops that look at it, and a last resort.

A signal handler that raises can be swallowed: by the import machinery, a callback of C code, a
`__del__`. So signals only set a flag. Whatever reads an input looks at it (`check`), which ends
every loop over data; whoever waits is woken (`waking`). A thread of its own receives the signals,
through a pipe that the interpreter's C handler writes to, and so also while the main thread is
in code that never comes back to Python. It removes what is unfinished and ends the process itself
when that has not ended `GRACE_SECONDS` later.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from anamnesis import owned

GRACE_SECONDS = 10.0
EXIT_CODE = 130
MESSAGE = "error: interrupted: nothing unfinished was left behind"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A plain value: the lock of an Event would be waited for by a handler that interrupts another.
_asked = False
_wakers: list[Callable[[], object]] = []


def listen() -> None:
    """Take SIGINT, SIGTERM and SIGHUP as a wish to end, from now on; for the main thread.

    One that is ignored stays so: `nohup`, and jobs that a shell put into the background.
    """
    global _asked
    _asked = False
    reader, writer = os.pipe()  # not inherited; macOS has no pipe2
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    with contextlib.suppress(RuntimeError):  # no room for its stack: the flag has to do
        threading.Thread(target=_watch, args=(reader,), name="amn-signals", daemon=True).start()
    # Last, so that none comes of which the thread is not told.
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _received)


def requested() -> bool:
    """Whether the command was asked to end."""
    return _asked


def check() -> None:
    """Raise KeyboardInterrupt when the command was asked to end."""
    if _asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def waking(wake: Callable[[], object]) -> Iterator[None]:
    """While this lasts, `wake` is called, in another thread, when the command is asked to end."""
    _wakers.append(wake)
    try:
        yield
    finally:
        _wakers.remove(wake)


def _received(number: int, frame: object) -> None:
    """The flag again, for whatever the main thread does before the other thread had its turn."""
    global _asked
    _asked = True


def _watch(reader: int) -> None:
    """Wait for the first signal, wake everybody, and see to it that the process ends."""
    global _asked
    _next(reader)
    _asked = True
    for wake in tuple(_wakers):
        with contextlib.suppress(Exception):
            wake()
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([reader], [], [], left)
        # Ctrl-C again is impatience; others come in pairs by themselves (SIGTERM and SIGHUP).
        if ready and _next(reader) == signal.SIGINT:
            break
    owned.remove_unfinished()
    with contextlib.suppress(Exception):
        print(MESSAGE, file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)


def _next(reader: int) -> int:
    """The number of the next signal that is meant for this."""
    while True:
        (number,) = os.read(reader, 1)
        if number in _SIGNALS:
            return number
