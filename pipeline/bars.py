"""Progress bars for a terminal, drawn by rich; imported only where bars are shown."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import IO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from anamnesis.errors import printable
from anamnesis.pipeline.tally import Clock, Outlet, Tally
from anamnesis.pipeline.units import speed

_RECENT_SECONDS = 30.0  # of which rich's own speed is


class Bars(Tally):
    """A bar for the run, which stays, and one for each file in the making, which goes when done.

    A run of one file has one bar. Speeds are those of the last 30 seconds.
    """

    def __init__(
        self, stream: IO[str], clock: Clock = time.monotonic, *, auto_refresh: bool = True
    ) -> None:
        super().__init__(clock)
        # Bars that were asked for by name are drawn wherever the stream leads.
        outlet = cast(IO[str], Outlet(stream))
        self._console = Console(file=outlet, force_terminal=True, highlight=False)
        self._redirect_stderr = stream is sys.stderr
        self._auto_refresh = auto_refresh
        self._rich: RichProgress | None = None
        self._overall: TaskID | None = None
        self._bars: dict[int, TaskID] = {}

    def start(self, total_bytes: int, files: Sequence[tuple[str, int]]) -> None:
        with self.lock:
            self.open(total_bytes, files)
            self._rich = RichProgress(
                *_columns(self._console.width),
                console=self._console,
                auto_refresh=self._auto_refresh,
                redirect_stdout=False,  # it may be a pipe with data
                redirect_stderr=self._redirect_stderr,
                get_time=self.clock,
            )
            self._rich.start()
            self._overall = self._rich.add_task(self._title(), total=self.total)

    def advance(self, file_index: int, nbytes: int) -> None:
        with self.lock:
            self.add(file_index, nbytes)
            if self._rich is None or self._overall is None:
                return
            if len(self.files) > 1 and file_index not in self.finished:
                if file_index not in self._bars:
                    name, size = self._short(file_index), self.files[file_index][1]
                    self._bars[file_index] = self._rich.add_task(name, total=size)
                self._rich.advance(self._bars[file_index], nbytes)
            self._rich.update(self._overall, completed=self.moved, total=self.total)

    def done(self, file_index: int) -> None:
        with self.lock:
            self.finish(file_index)
            if self._rich is None or self._overall is None:
                return
            if file_index in self._bars:
                self._rich.remove_task(self._bars.pop(file_index))
            self._rich.update(self._overall, completed=self.moved, total=self.total)

    def note(self, text: str) -> None:
        with self.lock:
            self._console.print(printable(text), markup=False, soft_wrap=True)

    def close(self) -> None:
        with self.lock:
            nothing = bool(self.files) and not any(self.written)
            self.forget()
            if self._rich is None:
                return
            if nothing and self._overall is not None:
                self._rich.remove_task(self._overall)
            for bar in self._bars.values():
                self._rich.remove_task(bar)
            self._bars.clear()
            self._rich.stop()
            self._rich = self._overall = None

    def _short(self, file_index: int) -> str:
        """Of a numbered shard only that: its name would be cut where it differs from others."""
        name = _base(self.files[file_index][0])
        if self._console.width < 100 and re.search(r"\d{5}-of-\d{5}", name):
            return f"shard {file_index + 1}/{len(self.files)}"
        return name

    def _title(self) -> str:
        if len(self.files) == 1:
            return _base(self.files[0][0])
        return _base(os.path.dirname(self.files[0][0])) if self.files else "total"


class _Speed(TransferSpeedColumn):
    """The speed of the whole run while it is short: of two reports the second may be a header."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        if not elapsed or elapsed > _RECENT_SECONDS:
            return super().render(task)
        return Text(speed(task.completed / elapsed), style="progress.data.speed")


def _columns(width: int) -> list[ProgressColumn]:
    """What fits beside a name that can be told from another; narrow terminals lose the bytes."""
    wide = width >= 72
    room = width - (62 if wide else 34)
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(6, min(40, room)))
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar_width=20 if wide else 8),
        TaskProgressColumn(),
        _Speed(),
        TimeRemainingColumn(compact=True),
    ]
    if wide:
        columns.insert(3, DownloadColumn(binary_units=True))
    return columns


def _base(path: str) -> str:
    return os.path.basename(path) or "total"
