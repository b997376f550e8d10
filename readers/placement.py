"""How a component's bytes lie along the output units: one class a layout.

| class | where unit `u` is | such are |
|---|---|---|
| `Whole` | not windowed: read once a task, as a parameter | scale grids, codebooks |
| `Contiguous` | bits `[u * unit_bits, (u + 1) * unit_bits)` | blocks, packed rows |
| `Strided` | those bits of every line; lines are `stride_bytes` apart | packed `[in, out]` |
| `Planar` | in line `u % lines`, beside units `u + lines`, `u + 2 * lines`, … | bit planes |

Each says what a window needs (`view_shape`), reads it (`fill`), and finds a smaller window in what
was read (`slice`). Views are uint8 of shape `[rows, bytes]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from anamnesis.kernels import Window
from anamnesis.limits import KiB

Read = Callable[[int, Any], None]  # (first byte of the component, buffer to fill)

# Between the parts of two lines: reading over so much costs less than another call.
GAP_BYTES = 8 * KiB
CACHE_LINE = 64


@dataclass(frozen=True, slots=True)
class Placement:
    """What all of them have; `unit_bits` are those of one unit, in one line where there are lines.

    `in_lines` says that a unit's bytes lie apart, or beside those of others: reading ahead pays.
    `wraps` says that the first bytes are needed again after the last.
    """

    unit_bits: int
    windowed: ClassVar[bool] = True
    in_lines: ClassVar[bool] = False
    wraps: ClassVar[bool] = False

    @property
    def line_bytes(self) -> int:
        """Bytes from one line to the next, where there are lines; else 0."""
        return 0

    @property
    def matrix_units(self) -> int:
        """Units of one matrix of a stack, where windows have to end with it; else 0."""
        return 0

    def span_bytes(self, units: int) -> int:
        """Bytes of `units` units that follow one another, rounded up to whole bytes."""
        return -(-units * self.unit_bits // 8)

    def view_shape(self, nbytes: int, units: int) -> tuple[int, int]:
        """`(rows, bytes)` of the view of `units` units, of a component of `nbytes` bytes."""
        raise NotImplementedError

    def window_bytes(self, nbytes: int, units: int) -> int:
        """Bytes that are read for `units` units, of a component of `nbytes` bytes."""
        rows, row_bytes = self.view_shape(nbytes, units)
        return rows * row_bytes

    def window_units(self, units: int, most: int, multiple: int) -> int:
        """`units` output units a window, or a number near it that this layout is read better by."""
        return units

    def fill(self, read: Read, nbytes: int, window: Window, view: Any) -> None:
        """Read a window of a component of `nbytes` bytes into its view."""
        raise NotImplementedError

    def ranges(self, nbytes: int, window: Window) -> Iterator[tuple[int, int]]:
        """Bytes `[begin, stop)` of the component that `fill` reads for a window, in its order.

        Between lines that are read one by one there may be some that it leaves out.
        """
        yield 0, nbytes

    def slice(self, view: Any, batch: Window, window: Window) -> Any:
        """The view of a window inside that of the batch that was read."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Whole(Placement):
    """A parameter of the whole tensor; it has no windows."""

    unit_bits: int = 0
    windowed: ClassVar[bool] = False

    def view_shape(self, nbytes: int, units: int) -> tuple[int, int]:
        return 0, 0


@dataclass(frozen=True, slots=True)
class Contiguous(Placement):
    """Unit after unit; a view has a row a unit, or a row a byte where units share bytes."""

    def view_shape(self, nbytes: int, units: int) -> tuple[int, int]:
        row_bytes = max(1, self.unit_bits // 8)
        return self.span_bytes(units) // row_bytes, row_bytes

    def window_bytes(self, nbytes: int, units: int) -> int:
        return self.span_bytes(units)

    def fill(self, read: Read, nbytes: int, window: Window, view: Any) -> None:
        begin = window.start * self.unit_bits // 8
        flat = view.reshape(-1)
        here = min(len(flat), nbytes - begin)
        read(begin, flat[:here])
        if here < len(flat):
            flat[here:] = 0  # the last unit of the tensor may be short

    def ranges(self, nbytes: int, window: Window) -> Iterator[tuple[int, int]]:
        begin = window.start * self.unit_bits // 8
        yield begin, min(nbytes, begin + self.span_bytes(window.stop - window.start))

    def slice(self, view: Any, batch: Window, window: Window) -> Any:
        begin = (window.start - batch.start) * self.unit_bits // 8
        end = begin + self.span_bytes(window.stop - window.start)
        row_bytes = view.shape[1]
        return view[begin // row_bytes : -(-end // row_bytes)]


@dataclass(frozen=True, slots=True)
class Strided(Placement):
    """Every unit has its bits in each line. With `lines`, so many are one matrix of a stack.

    A view has a row a line; the units of a matrix go on in the lines of the next one.
    """

    stride_bytes: int
    lines: int = 0
    in_lines: ClassVar[bool] = True

    @property
    def line_bytes(self) -> int:
        return self.stride_bytes

    @property
    def matrix_units(self) -> int:
        return 8 * self.stride_bytes // max(1, self.unit_bits) if self.lines else 0

    def view_shape(self, nbytes: int, units: int) -> tuple[int, int]:
        lines = self.lines or nbytes // max(1, self.stride_bytes)
        return lines, min(self.span_bytes(units), self.stride_bytes)

    def window_units(self, units: int, most: int, multiple: int) -> int:
        """Whole cache lines of a line, or else halves of them.

        What is left of a cache line would be fetched again for the next window, and kernels
        transpose 32 bytes at a time: windows of matrices with many inputs are wider than others,
        up to `most` units.
        """
        whole, half = (
            math.lcm(multiple, max(1, 8 * nbytes // self.unit_bits))
            for nbytes in (CACHE_LINE, CACHE_LINE // 2)
        )
        nearest = (units + whole // 2) // whole * whole
        if nearest or units >= half:
            return nearest or half
        return half if half <= most else units

    def fill(self, read: Read, nbytes: int, window: Window, view: Any) -> None:
        from anamnesis.readers.strides import gather  # noqa: PLC0415 - numpy is for reading alone

        stride = self.stride_bytes
        first, begin = self._start(window)
        lines, part = view.shape
        here = min(part, stride - begin)
        if part == stride:
            read(first, view.reshape(-1))
        elif stride - here <= GAP_BYTES:
            gather(read, first + begin, (lines, here), (stride, 1), view[:, :here])
        else:
            for line in range(lines):
                read(first + line * stride + begin, view[line, :here])
        view[:, here:] = 0

    def ranges(self, nbytes: int, window: Window) -> Iterator[tuple[int, int]]:
        stride = self.stride_bytes
        first, begin = self._start(window)
        lines, part = self.view_shape(nbytes, window.stop - window.start)
        here = min(part, stride - begin)
        if part == stride:
            yield first, first + lines * stride
        elif stride - here <= GAP_BYTES:
            yield first + begin, first + (lines - 1) * stride + begin + here
        else:
            for line in range(lines):
                at = first + line * stride + begin
                yield at, at + here

    def _start(self, window: Window) -> tuple[int, int]:
        """Where the matrix of a window begins, and the window in its first line."""
        first, unit = 0, window.start
        if self.matrix_units:
            matrix, unit = divmod(unit, self.matrix_units)
            first = matrix * self.lines * self.stride_bytes
        return first, unit * self.unit_bits // 8

    def slice(self, view: Any, batch: Window, window: Window) -> Any:
        begin = (window.start - batch.start) * self.unit_bits // 8
        return view[:, begin : begin + self.span_bytes(window.stop - window.start)]


@dataclass(frozen=True, slots=True)
class Planar(Placement):
    """`lines` lines, each with a unit in every plane of its bits: unit `u` in line `u % lines`.

    A view has a row a line: all of them, from line 0 on, or else those of the window in its order.
    """

    lines: int
    in_lines: ClassVar[bool] = True
    wraps: ClassVar[bool] = True

    @property
    def line_bytes(self) -> int:
        return self.unit_bits // 8

    def view_shape(self, nbytes: int, units: int) -> tuple[int, int]:
        return min(units, self.lines), self.line_bytes

    def fill(self, read: Read, nbytes: int, window: Window, view: Any) -> None:
        first = window.start % self.lines if len(view) < self.lines else 0
        here = min(len(view), self.lines - first)
        read(first * self.line_bytes, view[:here].reshape(-1))
        if here < len(view):
            read(0, view[here:].reshape(-1))

    def ranges(self, nbytes: int, window: Window) -> Iterator[tuple[int, int]]:
        rows, line = self.view_shape(nbytes, window.stop - window.start)
        first = window.start % self.lines if rows < self.lines else 0
        here = min(rows, self.lines - first)
        yield first * line, (first + here) * line
        if here < rows:
            yield 0, (rows - here) * line

    def slice(self, view: Any, batch: Window, window: Window) -> Any:
        if len(view) == self.lines:
            return view
        return view[window.start - batch.start : window.stop - batch.start]


WHOLE = Whole()
