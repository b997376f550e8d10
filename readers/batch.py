"""Raw quantised blocks of a logical tensor, window by window, as kernels get them.

Nothing is copied between `pread` and decoding; `record_batches` shows the same bytes as Arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.readers.base import Component, FileId, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.raw import RawBytes, SpanCrc, open_raw
from anamnesis.readers.source import SourceFile

CACHE_LINE = 64

OpenFile = Callable[[FileId], SourceFile]


class Whole(NamedTuple):
    """A whole-tensor parameter as kernels get it: raw numbers in the stored shape."""

    dtype: str
    array: Any


@dataclass(frozen=True, slots=True)
class Blocks:
    """One window as read: for each role, uint8 `[rows, bytes]`."""

    views: dict[str, Any]


_SMALL = 1024  # bytes of an array that need not begin with a cache line


class BlockReader:
    """Reads windows of one tensor into buffers of its own.

    With `reuse`, every window is read into the same memory, and what `read` returned before is
    overwritten: this is the conversion loop. Without it every window owns its memory.
    """

    def __init__(self, tensor: Tensor, open_file: OpenFile, *, reuse: bool) -> None:
        """Prepare to read `tensor`; files are opened through `open_file`."""
        self.tensor = tensor
        self._windowed = [c for c in tensor.components if c.placement.windowed]
        self._wholes = [c for c in tensor.components if not c.placement.windowed]
        self.read_bytes = 0  # of all windows so far
        self._open = open_file
        self._reuse = reuse
        self._cache: dict[int, Blocks] = {}
        self._buffers: dict[str, Any] = {}
        self._raws: dict[str, RawBytes] = {}

    def spans(self) -> list[SpanCrc]:
        """Checksums of the archive entries' bytes that were read in order so far."""
        return [span for raw in self._raws.values() for span in raw.spans()]

    def read(self, window: Window) -> Blocks:
        """The raw blocks of a window of output units."""
        units = window.stop - window.start
        blocks = self._cache.get(units) if self._reuse else None
        if blocks is None:
            targets = {c.role: self._target(c, units) for c in self._windowed}
            blocks = Blocks(targets)
            if self._reuse:
                self._cache = {units: blocks}
        for component in self._windowed:
            view = blocks.views[component.role]
            read, nbytes = self._raw(component).read_into, component.stored.nbytes
            component.placement.fill(read, nbytes, window, view)
            self.read_bytes += view.nbytes
        return blocks

    def within(self, blocks: Blocks, batch: Window, window: Window) -> dict[str, Any]:
        """The kernel's views of a window inside the batch that was read for `batch`.

        A cycle that was read whole stays whole: it begins with line 0, and else with the window.
        """
        return {
            c.role: c.placement.slice(blocks.views[c.role], batch, window) for c in self._windowed
        }

    def wholes(self) -> dict[str, Whole]:
        """The whole-tensor parameters as kernels get them, by role."""
        params = {}
        for component in self._wholes:
            stored = component.stored
            data = np.empty(stored.nbytes, np.uint8)
            self._raw(component).read_into(0, data)
            array = data.view(DTYPES[stored.dtype].numpy).reshape(stored.shape)
            params[component.role] = Whole(stored.dtype, array)
        return params

    def _target(self, component: Component, units: int) -> Any:
        shape = component.placement.view_shape(component.stored.nbytes, units)
        need = shape[0] * shape[1]
        buffer = self._buffers.get(component.role)
        if buffer is None or len(buffer) < need or not self._reuse:
            buffer = aligned(need, np.uint8)
            self._buffers[component.role] = buffer
        return buffer[:need].reshape(shape)

    def _raw(self, component: Component) -> RawBytes:
        raw = self._raws.get(component.role)
        if raw is None:
            stored = component.stored
            file = self._open(stored.file)
            raw = self._raws[component.role] = open_raw(stored, file)
        return raw


def aligned(count: int, dtype: Any) -> Any:
    """An uninitialised array that begins with a cache line.

    Large arrays of numpy begin 16 bytes into one, where kernels that take a line of packed codes,
    or write 32 bytes, touch two. Of small ones there may be a million, and nobody would notice.
    """
    kind = np.dtype(dtype)
    if count * kind.itemsize < _SMALL:
        return np.empty(count, kind)
    room = np.empty(count * kind.itemsize + CACHE_LINE, np.uint8)
    skip = -room.ctypes.data % CACHE_LINE
    return room[skip : skip + count * kind.itemsize].view(kind)


def iter_windows(tensor: Tensor, units: int, start: int = 0, stop: int = -1) -> Iterator[Window]:
    """Consecutive windows of at most `units` units that cover `[start, stop)`.

    Where the payload is a stack in columns, windows end where a matrix ends.
    """
    stop = tensor.units if stop < 0 else stop
    border = tensor.matrix_units
    while start < stop:
        end = min(start + max(1, units), stop)
        if border:
            end = min(end, (start // border + 1) * border)
        yield Window(start, end)
        start = end
