"""A clock, streams, and a whole run of a reporter of progress."""

from __future__ import annotations

import io
import re
from typing import Any

from anamnesis.pipeline.progress import Progress

GiB = 1 << 30
FILES = [(f"out/model-0000{n}-of-00003.safetensors", n * GiB) for n in (1, 2, 3)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream that takes `lines` writes and then fails, as a closed pipe does."""

    def __init__(self, lines: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self.left = lines
        self.error = error or BrokenPipeError()
        self.tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        if self.left <= 0:
            raise self.error
        self.left -= 1
        return super().write(text)


def play(progress: Progress) -> None:
    """A whole run, with what may come before, twice and after."""
    progress.note("hello")
    progress.start(6 * GiB, FILES)
    for number, (_, nbytes) in enumerate(FILES):
        progress.advance(number, nbytes)
        progress.done(number)
        progress.done(number)
    progress.close()
    progress.close()
    progress.advance(0, 1)


def bars(stream: io.StringIO, clock: Clock) -> Any:
    from anamnesis.pipeline.bars import Bars

    return Bars(stream, clock, auto_refresh=False)


def drawn(shown: Any, stream: io.StringIO) -> list[str]:
    """The lines of one refresh, without escape sequences."""
    stream.seek(0)
    stream.truncate()
    shown._rich.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue())
    return [line.strip() for line in text.splitlines() if line.strip()]
