"""Strided boxes of numbers out of a file, in as few reads as pays.

Any layout that a first element and a stride a dimension describe: Fortran order, PyTorch's views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anamnesis.limits import KiB

Read = Callable[[int, Any], None]  # (first element, bytes to fill)

RUN_BYTES = 512 * KiB  # read at once through scratch memory
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
    axis = max(range(len(shape)), key=lambda a: (shape[a] - 1) * strides[a])
    size, stride = shape[axis], strides[axis]
    extent = _extent(shape, strides)
    between = (extent - math.prod(shape)) * itemsize
    if extent <= 2 * math.prod(shape) or between <= size * _GAP_BYTES:
        if extent * itemsize <= RUN_BYTES:
            run = np.empty(extent, out.dtype)
            read(base, run.view(np.uint8))
            out[...] = _strided(run, shape, strides)
            return
        step = -(-size // 2)  # it is only too large
    else:
        rest, steps = shape[:axis] + shape[axis + 1 :], strides[:axis] + strides[axis + 1 :]
        slice_extent = _extent(rest, steps)
        step = RUN_BYTES // (slice_extent * itemsize)
        if step and slice_extent <= 2 * math.prod(rest):
            _gather_slices(read, base, (stride, slice_extent, step), rest, steps, out, axis)
            return
        step = 1
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


def _gather_slices(
    read: Read,
    base: int,
    along: tuple[int, int, int],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    out: Any,
    axis: int,
) -> None:
    """Slices across `axis`, each one run; `along`: the step to the next, its extent, how many.

    So many runs are read before they are moved, which turns short ones into lines of memory.
    """
    stride, extent, group = along
    lines = np.moveaxis(out, axis, 0)
    runs = np.empty((min(group, len(lines)), extent), out.dtype)
    raw = runs.view(np.uint8)
    for first in range(0, len(lines), group):
        count = min(group, len(lines) - first)
        for k in range(count):
            read(base + (first + k) * stride, raw[k])
        lines[first : first + count] = _strided(
            runs[:count].reshape(-1), (count, *shape), (extent, *strides)
        )


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first of a box to its last."""
    return 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))


def _strided(run: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    steps = tuple(s * run.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(run, shape, steps, writeable=False)
