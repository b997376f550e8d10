"""The one loop: a tensor's units, read in batches and decoded window by window.

A *window* is what stays in cache from decoding to its use; a *batch* is what is read at a time, one
window or, of layouts stored in columns, several. Whoever wants values takes them from here:
conversion writes them, `verify --against` hashes them, `stats` counts them, `diff` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.names.derived import Derived
from anamnesis.pipeline.ahead import Ahead, ahead_of
from anamnesis.pipeline.boxes import DecodedBoxes, StoredBoxes
from anamnesis.pipeline.decode import decode_function
from anamnesis.pipeline.gather import Boxes, Gatherer, finisher
from anamnesis.pipeline.plan import Step, Task, source_dtype, source_steps, with_dtype
from anamnesis.pipeline.stored_blocks import stored_blocks
from anamnesis.pipeline.work import units_of
from anamnesis.readers.base import Stored
from anamnesis.readers.batch import BlockReader, OpenFile, Whole, iter_windows
from anamnesis.readers.files import Files
from anamnesis.readers.raw import SpanCrc, open_raw

Views = Mapping[str, Any]  # role -> uint8 [rows, bytes]
Decode = Callable[[Views, Window], Any]
Cancel = Callable[[], bool]


class Cancelled(Exception):  # noqa: N818 - not an error
    """The run was stopped; the task ended between two windows."""


class Decoded(NamedTuple):
    """A window of output units, the raw blocks it is made of, and its values.

    `values` is one-dimensional, of the dtype that the step asks for (BF16 as uint16 bits; stored
    bytes as uint8 where nothing is decoded). The next window overwrites both.
    """

    window: Window
    views: Views
    values: Any


class Windows:
    """One tensor, read and decoded as a step of the plan says, as often as somebody asks."""

    def __init__(
        self,
        step: Step,
        open_file: OpenFile,
        decoder: Callable[[Step, BlockReader], Decode] = decode_function,
        *,
        cancelled: Cancel | None = None,
    ) -> None:
        """Read the tensor's parameters; `decoder` makes the function that decodes a window.

        Raises FormatError when they are not what the kernel can take, or what reading raises.
        """
        self.step = step
        self.open_file = open_file
        self._cancelled = cancelled
        self.reader: Any
        self._decode: Decode
        if isinstance(step.tensor, Derived):
            self.reader, self._decode = gathering(step, open_file)
        else:
            self.reader = BlockReader(step.tensor, open_file, reuse=True)
            self._decode = decoder(step, self.reader)

    def over(self, start: int = 0, stop: int = -1) -> Iterator[Decoded]:
        """The windows of units `[start, stop)`, in order; -1 is the tensor's end.

        `start` is where a window may start. Asks `cancelled` before each window, and raises
        Cancelled when it says so.
        """
        cancelled = self._cancelled
        step, reader, decode = self.step, self.reader, self._decode
        tensor = step.tensor
        for batch in iter_windows(tensor, step.batch_units, start, stop):
            blocks = reader.read(batch)
            windows: Iterable[Window] = (batch,)  # of a small tensor, of which there may be many
            if batch.stop - batch.start > step.window_units:
                windows = iter_windows(tensor, step.window_units, batch.start, batch.stop)
            for window in windows:
                if cancelled is not None and cancelled():
                    raise Cancelled
                views = blocks.views if window == batch else reader.within(blocks, batch, window)
                yield Decoded(window, views, decode(views, window))

    def fill(self, first: int, out: Any) -> None:
        """The elements from `first` on, flat in row-major order, into `out`, one-dimensional.

        Only the blocks that the range touches are read.
        """
        tensor = self.step.tensor
        last = first + len(out)
        for window, _, found in self.over(*units_of(tensor, first, last)):
            values = found.view(out.dtype)
            at = window.start * tensor.unit_elems
            begin, end = max(first, at), min(last, at + len(values))
            out[begin - first : end - first] = values[begin - at : end - at]

    @property
    def read_bytes(self) -> int:
        """Bytes of the raw blocks read so far, without the tensor's parameters."""
        count: int = self.reader.read_bytes
        return count

    def spans(self) -> list[SpanCrc]:
        """Checksums of the archive entries' bytes that were read in order so far."""
        spans: list[SpanCrc] = self.reader.spans()
        return spans


class _Held(NamedTuple):
    """Parameters that were read already."""

    found: Mapping[str, Whole]

    def wholes(self) -> Mapping[str, Whole]:
        return self.found


def at_once(step: Step, wholes: Mapping[str, Whole], views: Views) -> Any:
    """The values of a whole tensor, small enough for one window, from what was read of it."""
    return decode_function(step, _Held(wholes))(views, Window(0, step.tensor.units))


def batches(step: Step, start: int, stop: int) -> Iterator[Window]:
    """What is read at a time of units `[start, stop)`; `over` may begin where one begins."""
    return iter_windows(step.tensor, step.batch_units, start, stop)


class Inputs:
    """What one task reads: its files, and how much of them so far."""

    def __init__(self, files: Files, cancelled: Cancel | None = None) -> None:
        self.read_bytes = 0
        self.spans: list[SpanCrc] = []
        self._files, self._cancelled = files, cancelled

    @contextmanager
    def opened(self, step: Step, *, counted: bool = True) -> Iterator[Windows]:
        """The windows of a tensor, whose reading counts when the block ends, if it is `counted`."""
        windows = Windows(step, self._files, cancelled=self._cancelled)
        yield windows
        if counted:
            self.read_bytes += windows.read_bytes
            self.spans += windows.spans()

    def read(self, stored: Stored) -> Any:
        """The bytes of a small stored tensor (uint8), or of several as if they were one.

        Raises Cancelled when asked to stop.
        """
        if self._cancelled is not None and self._cancelled():
            raise Cancelled
        data = np.empty(stored.nbytes, np.uint8)
        raw = open_raw(stored, self._files(stored.file))
        raw.read_into(0, data)
        self.read_bytes += stored.nbytes
        self.spans += raw.spans()
        return data

    def read_all(self, stored: Sequence[Stored], *, counted: bool) -> Any:
        """The bytes of plain stored tensors of one file, one behind the other (uint8).

        Those that lie so in the file are read by one call. Raises Cancelled when asked to stop.
        """
        if self._cancelled is not None and self._cancelled():
            raise Cancelled
        file, data = self._files(stored[0].file), np.empty(sum(s.nbytes for s in stored), np.uint8)
        begin = end = 0  # of what is to be read
        start = stored[0].offset
        for one in stored:
            if one.offset != start + end - begin:
                file.read_into(start, data[begin:end])
                begin, start = end, one.offset
            end += one.nbytes
        file.read_into(start, data[begin:end])
        self.read_bytes += len(data) if counted else 0
        return data


@contextmanager
def files_of(task: Task, ahead: Ahead | None = None) -> Iterator[Files]:
    """The input files of a task, which must be the same at its end as when it was planned.

    `ahead` is what is fetched for the tasks of the caller, if not of this context.
    """
    with ahead_of(task, ahead) as blocks:
        files = Files(task.origin, blocks, task.key)
        try:
            yield files
            files.check_unchanged()
        finally:
            files.close()


@contextmanager
def inputs_of(task: Task, cancelled: Cancel | None = None) -> Iterator[Inputs]:
    """The inputs of a task, from its files."""
    with files_of(task) as files:
        yield Inputs(files, cancelled)


def gathering(step: Step, open_file: OpenFile) -> tuple[Gatherer, Decode]:
    """What reads a derived tensor, and what makes values of that.

    Blocks are moved as they are stored where they can be, and decoded then.
    """
    tensor = step.tensor
    assert isinstance(tensor, Derived)
    finish, steps = finisher(step), source_steps(tensor)
    stored = stored_blocks(
        tensor, tuple(with_dtype(s, source_dtype(tensor)) for s in tensor.sources)
    )
    if stored is None:

        def decoded(number: int, memory: Any) -> Boxes:
            return DecodedBoxes(Windows(steps(number), open_file))

        return Gatherer(step, decoded, None), finish
    nbytes = stored.block_bytes

    def as_stored(number: int, memory: Any) -> Boxes:
        found = tensor.sources[number].components[0].stored
        return StoredBoxes(open_file(found.file), found.offset, nbytes, memory)

    gatherer = Gatherer(step, as_stored, stored)
    blocks = tensor.unit_elems // stored.block_elems
    units = step.window_units * blocks
    decode = decode_function(
        replace(step, tensor=stored.tensor, dtype=source_dtype(tensor), window_units=units),
        gatherer,
    )

    def run(views: Views, window: Window) -> Any:
        values = decode(views, Window(window.start * blocks, window.stop * blocks))
        return finish({"payload": values.view(np.uint8)}, window)

    return gatherer, run
