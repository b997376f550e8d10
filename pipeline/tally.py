"""Under every progress report: what was done so far, and a stream that may go away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import IO, Any

from anamnesis.errors import printable

Clock = Callable[[], float]


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


def format_seconds(seconds: float) -> str:
    """`4 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
