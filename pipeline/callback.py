"""What `progress=` of the public functions may be: a flag, a function, or a reporter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from anamnesis.errors import UsageError
from anamnesis.pipeline.progress import Progress, make_progress
from anamnesis.pipeline.tally import Tally

OnProgress: TypeAlias = Callable[[int, int], object]
ProgressLike: TypeAlias = bool | OnProgress | Progress


class Callback(Tally):
    """Calls a function with the bytes that are done and the bytes of all, one call at a time.

    The first call is with 0, the last one with the same number twice; files that were there
    already count in neither. What the function raises ends the run, whose caller gets it.
    """

    def __init__(self, function: OnProgress) -> None:
        super().__init__(time.monotonic)
        self._function = function

    def start(self, total_bytes: int, files: Sequence[tuple[str, int]]) -> None:
        with self.lock:
            self.open(total_bytes, files)
            self._function(0, self.total)

    def advance(self, file_index: int, nbytes: int) -> None:
        with self.lock:
            self.add(file_index, nbytes)
            if self.files and self.moved < self.total:
                self._function(self.moved, self.total)

    def done(self, file_index: int) -> None:
        with self.lock:
            self.finish(file_index)

    def note(self, text: str) -> None:
        """Notes are in what the public functions return."""

    def close(self) -> None:
        with self.lock:
            if self.files and self.moved == self.total:
                self._function(self.total, self.total)
            self.forget()


def reporter(progress: ProgressLike) -> Progress:
    """The reporter for `progress`: bars or lines on standard error for True, none for False.

    Raises UsageError for what is neither a flag nor can be called.
    """
    if isinstance(progress, bool):
        return make_progress("auto" if progress else "quiet")
    if callable(progress):
        return Callback(progress)
    if isinstance(progress, Progress):
        return progress
    raise UsageError(
        f"progress: found {progress!r:.100}; allowed: True, False, or a function of two numbers, "
        "the bytes that are done and the bytes of all"
    )


__all__ = ["Callback", "ProgressLike", "reporter"]
