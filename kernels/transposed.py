"""A matrix with its rows as columns: GPT-2's weights, and experts that are stored so.

Numbers of 2 and 4 bytes go by squares in registers; numpy moves others one by one.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._native import variants
from anamnesis.kernels.types import Array

_transpose = variants("transposed:transpose")
_KINDS = {2: np.uint16, 4: np.uint32}
_LINE_BYTES = 64


def copy_transposed(source: Array, out: Array, *, streamed: bool = False) -> None:
    """Copy an array into `out`, of the same shape and dtype, whatever the strides of both are.

    With `streamed` what is written is not brought into the caches, where `out` allows it: for more
    than these hold.
    """
    axis = _line_axis(source, out)
    if axis < 0:
        out[...] = source
        return
    kind = _KINDS[source.itemsize]
    lines, rows = (np.moveaxis(array.view(kind), axis, -2) for array in (source, out))
    turn = _transpose(streamed and _by_lines(rows))
    for index in np.ndindex(lines.shape[:-2]):
        turn(lines[index].T, rows[index])


def _by_lines(rows: Array) -> bool:
    """Whether all rows begin with a cache line."""
    places = (rows.__array_interface__["data"][0], *rows.strides[:-1])
    return not any(place % _LINE_BYTES for place in places)


def _line_axis(source: Array, out: Array) -> int:
    """The axis before the last that `source` is contiguous along, and `out` along the last; or -1.

    The kernel steps forward from the first element of a line.
    """
    size = source.itemsize
    if size not in _KINDS or source.ndim < 2 or out.strides[-1] != size:
        return -1
    if source.strides[-1] == size or min(*source.strides, *out.strides) < 0:
        return -1
    found = [a for a, stride in enumerate(source.strides[:-1]) if stride == size]
    return next((a for a in found if source.shape[a] > 1), -1)
