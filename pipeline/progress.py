"""What a run tells its user while it works: bars on a terminal, lines in a log, or nothing.

All of it goes to standard error. The methods may be called from any thread. A terminal or a
pipe that goes away silences the reports and leaves the run alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import IO, Any, Literal, Protocol

from anamnesis.errors import UsageError
from anamnesis.errors import printable as printable

Mode = Literal["auto", "bar", "plain", "quiet"]
Clock = Callable[[], float]

LINE_SECONDS = 5.0
STEP_SECONDS = 1.0


class Progress(Protocol):
    """Told of output bytes as they are written; sizes are bytes.

    A run is from `start` to `close`, and one reporter may serve several in turn. Before `start`
    only `done`, `note` and `close` may come. A file that is done and never advanced was there
    already, and counts neither as work nor as speed.
    """

    def start(self, total_bytes: int, files: Sequence[tuple[str, int]]) -> None:
        """`total_bytes` will be written, to `files`: each a path and its size."""
        ...

    def advance(self, file_index: int, nbytes: int) -> None:
        """`nbytes` more are written to that file."""
        ...

    def done(self, file_index: int) -> None:
        """That file has its final name."""
        ...

    def note(self, text: str) -> None:
        """Show a line of text."""
        ...

    def close(self) -> None:
        """The run is over, well or not; may be called again."""
        ...


def make_progress(
    mode: Mode = "auto", stream: IO[str] | None = None, *, clock: Clock = time.monotonic
) -> Progress:
    """The reporter for `stream`, by default standard error; raises `UsageError` for no mode.

    `auto` is bars on a terminal that can move its cursor, and plain lines elsewhere.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a service, or a program with windows: there is nobody to tell
        return Silent()
    if mode == "auto":
        mode = "bar" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "bar":
        from anamnesis.pipeline.bars import Bars

        return Bars(stream, clock)
    if mode == "plain":
        return Lines(stream, clock)
    if mode == "quiet":
        return Silent()
    raise UsageError(f"progress: found {mode!r}; allowed: auto | bar | plain | quiet")


class Silent:
    """Says nothing."""

    def start(self, total_bytes: int, files: Sequence[tuple[str, int]]) -> None: ...
    def advance(self, file_index: int, nbytes: int) -> None: ...
    def done(self, file_index: int) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Outlet:
    """A stream that is left alone once it failed: no report is worth a run."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._alive = True

    def write(self, text: str) -> int:
        if self._alive:
            with self._guard():
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        if self._alive:
            with self._guard():
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # a closed file raises ValueError
            self._alive = False


class Tally:
    """What was written and what is left, for the reporters that show it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = Lock()
        self._begin = clock()
        self.total = 0
        self.moved = 0
        self.files: list[tuple[str, int]] = []
        self.written: list[int] = []
        self.finished: set[int] = set()

    def open(self, total_bytes: int, files: Sequence[tuple[str, int]]) -> None:
        self._begin = self.clock()
        self.moved = 0
        self.files = [(printable(path), nbytes) for path, nbytes in files]
        self.written = [0] * len(files)
        self.total = max(0, total_bytes - sum(self.files[n][1] for n in self.finished))

    def add(self, file_index: int, nbytes: int) -> None:
        if not self.files:  # a report that comes late, after a run that failed
            return
        self.moved += nbytes
        self.written[file_index] += nbytes
        self.total = max(self.total, self.moved)

    def finish(self, file_index: int) -> bool:
        """Count a file as done; whether it was there already.

        With the last one all is written, also what no task reports: headers, an index.
        """
        if file_index in self.finished:
            return False
        self.finished.add(file_index)
        was_there = bool(self.files) and not self.written[file_index]
        if was_there:
            self.total = max(self.moved, self.total - self.files[file_index][1])
        if len(self.finished) == len(self.files):
            self.moved = self.total
        return was_there

    def forget(self) -> None:
        """End a run; what comes next belongs to another."""
        self.files, self.written = [], []
        self.finished.clear()

    def rate(self) -> float:
        """Bytes a second since the start."""
        return self.moved / max(self.clock() - self._begin, 1e-3)


class Lines(Tally):
    """A line each `LINE_SECONDS` or 10 %, none within `STEP_SECONDS`, and one a finished file.

    Speeds are those of the whole run so far: files are written side by side, and one file's own
    would say little. Nothing is printed while nothing is written.
    """

    def __init__(self, stream: IO[str], clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = Outlet(stream)
        self._last = self._begin
        self._tenth = 0

    def start(self, total_bytes: int, files: Sequence[tuple[str, int]]) -> None:
        with self.lock:
            self.open(total_bytes, files)
            self._last, self._tenth = self._begin, 0

    def advance(self, file_index: int, nbytes: int) -> None:
        with self.lock:
            self.add(file_index, nbytes)
            now = self.clock()
            tenth = 10 * self.moved // max(1, self.total)
            waited = now - self._last
            due = waited >= (STEP_SECONDS if tenth > self._tenth else LINE_SECONDS)
            if not due or not self.moved or not self.files:
                return
            self._last, self._tenth = now, tenth
            rate = self.rate()
            left = (self.total - self.moved) / max(rate, 1)
            self._line(
                f"{100 * self.moved // max(1, self.total)} %, "
                f"{format_bytes(self.moved)} of {format_bytes(self.total)}, "
                f"{format_bytes(rate)}/s, {format_seconds(left)} left"
            )

    def done(self, file_index: int) -> None:
        with self.lock:
            was_there = self.finish(file_index)
            if not self.files:
                return
            path, nbytes = self.files[file_index]
            rate = "there already" if was_there else f"{format_bytes(self.rate())}/s"
            count = f"shard {file_index + 1}/{len(self.files)}"
            self._line(f"{count} {path} done {format_bytes(nbytes)}, {rate}")

    def note(self, text: str) -> None:
        with self.lock:
            self._line(printable(text))

    def close(self) -> None:
        with self.lock:
            self.forget()

    def _line(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


def format_bytes(nbytes: float) -> str:
    """`1234567890` as `1.2 GB`; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        digits = 0 if unit == "B" else 1
        if round(nbytes, digits) < 1000:
            return f"{nbytes:.{digits}f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def format_seconds(seconds: float) -> str:
    """`4 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
