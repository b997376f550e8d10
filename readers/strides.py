"""Strided boxes of numbers out of a file, in as few reads as pays.

Any layout that a first element and a stride a dimension describe: Fortran order, PyTorch's views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anamnesis.limits import KiB

Read = Callable[[int, Any], None]  # (first element, one-dimensional array to fill)

_RUN_BYTES = 512 * KiB  # read at once through scratch memory
_GAP_BYTES = 16 * KiB  # reading over so much costs less than another call


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of numbers that lie in row-major order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def column_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of Fortran order: the first dimension varies fastest."""
    return tuple(math.prod(shape[:axis]) for axis in range(len(shape)))


def view_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """`strides`, or None where they mean row-major order; dimensions of one have any stride."""
    same = all(
        size == 1 or stride == plain
        for size, stride, plain in zip(shape, strides, row_major(shape), strict=True)
    )
    return None if same or 0 in shape else strides


def gather(
    read: Read, base: int, shape: tuple[int, ...], strides: tuple[int, ...], out: Any
) -> None:
    """Copy a box of elements into `out` (of `shape`, any dtype of the elements' size).

    Strides are in elements, zero or more. Memory besides `out` is bounded; where the elements of
    the box lie far apart, only they are read.
    """
    if 0 in shape:
        return
    itemsize = out.dtype.itemsize
    extent = 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
    axis = max(range(len(shape)), key=lambda a: (shape[a] - 1) * strides[a])
    between = (extent - math.prod(shape)) * itemsize
    dense = extent <= 2 * math.prod(shape) or between <= shape[axis] * _GAP_BYTES
    if dense and extent * itemsize <= _RUN_BYTES:
        if strides == row_major(shape) and out.flags.c_contiguous:
            read(base, out.reshape(-1))
            return
        run = np.empty(extent, out.dtype)
        read(base, run)
        steps = tuple(s * itemsize for s in strides)
        out[...] = np.lib.stride_tricks.as_strided(run, shape, steps, writeable=False)
        return
    # Halve a box that is only too large; of a sparse one take the slices apart.
    size, stride = shape[axis], strides[axis]
    step = -(-size // 2) if dense else 1
    before = (slice(None),) * axis
    for k in range(0, size, step):
        count = min(step, size - k)
        part = (*shape[:axis], count, *shape[axis + 1 :])
        gather(read, base + k * stride, part, strides, out[(*before, slice(k, k + count))])


def gather_part(
    read: Read, base: int, shape: tuple[int, ...], strides: tuple[int, ...], first: int, out: Any
) -> None:
    """Copy the elements from `first` on, in row-major order, of a box into `out` (1-D).

    Whole slices along the first dimension are one `gather`; what is cut off at both ends is
    gathered slice by slice.
    """
    if not len(out):
        return
    if len(shape) < 2:
        gather(read, base + first * sum(strides), (len(out),), strides or (0,), out)
        return
    inner = math.prod(shape[1:])
    index, skipped = divmod(first, inner)
    done = min(-skipped % inner, len(out))
    if done:
        gather_part(read, base + index * strides[0], shape[1:], strides[1:], skipped, out[:done])
        index += 1
    count = (len(out) - done) // inner
    if count:
        stop = done + count * inner
        box = (count, *shape[1:])
        gather(read, base + index * strides[0], box, strides, out[done:stop].reshape(box))
        done = stop
        index += count
    gather_part(read, base + index * strides[0], shape[1:], strides[1:], 0, out[done:])
