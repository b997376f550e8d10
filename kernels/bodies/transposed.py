"""Bodies of `kernels/transposed.py`."""

from __future__ import annotations

from typing import Any

from anamnesis.kernels.bodies._jit import variants
from anamnesis.kernels.bodies._transpose import LINE_BYTES, stream_lines, transpose_lines
from anamnesis.kernels.types import Array


@variants
def transpose(streamed: bool) -> Any:
    """`(source, out)`: `out[i, j] = source[j, i]`, by squares that are cache lines wide.

    What no square covers goes by as many rows of `source`, so that a line of it stays near until
    all of its numbers are taken. With `streamed` squares go past the caches; `out` and its rows
    begin with cache lines then.
    """
    turn = stream_lines if streamed else transpose_lines

    def run(source: Array, out: Array) -> None:
        side = LINE_BYTES // source.itemsize
        rows, columns = source.shape
        whole = columns // side * side
        for row in range(0, rows, side):
            stop = min(row + side, rows)
            done = whole if stop - row == side else 0
            for column in range(0, done, side):
                turn(source, row, column, out, column, row)
            for i in range(done, columns):
                for j in range(row, stop):
                    out[i, j] = source[j, i]

    return run
