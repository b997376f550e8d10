"""What a run tells its user while it works: bars on a terminal, lines in a log, or nothing.

All of it goes to standard error. The methods may be called from any thread. A terminal or a
pipe that goes away silences the reports and leaves the run alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import IO, Literal, Protocol, runtime_checkable

from anamnesis.errors import UsageError
from anamnesis.errors import printable as printable
from anamnesis.pipeline.tally import Clock, Outlet, Tally
from anamnesis.pipeline.tally import format_seconds as format_seconds
from anamnesis.pipeline.units import size, speed

Mode = Literal["auto", "bar", "plain", "quiet"]

LINE_SECONDS = 5.0
STEP_SECONDS = 1.0


@runtime_checkable
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
                f"{size(self.moved)} of {size(self.total)}, "
                f"{speed(rate)}, {format_seconds(left)} left"
            )

    def done(self, file_index: int) -> None:
        with self.lock:
            was_there = self.finish(file_index)
            if not self.files:
                return
            path, nbytes = self.files[file_index]
            rate = "there already" if was_there else speed(self.rate())
            count = f"shard {file_index + 1}/{len(self.files)}"
            self._line(f"{count} {path} done {size(nbytes)}, {rate}")

    def note(self, text: str) -> None:
        with self.lock:
            self._line(printable(text))

    def close(self) -> None:
        with self.lock:
            self.forget()

    def _line(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()
