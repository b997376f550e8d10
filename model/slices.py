"""What `tensor[10:20, ::2]` picks, and the runs of elements to decode for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index as as_integer
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anamnesis.pipeline.plan import step_for
from anamnesis.pipeline.values import Values, as_public, held_as
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import OpenFile

_SLAB_ELEMS = 1 << 20  # decoded at a time for a slice that leaves out columns
_GAP_ELEMS = 1 << 14  # decoding over so many costs less than another read


class Slab(NamedTuple):
    """A run of `length` elements from `first` on, for the part `place` of the result.

    `steps` are the shape and the strides, in elements, of what is picked inside; None: all of it.
    """

    first: int
    length: int
    steps: tuple[tuple[int, ...], tuple[int, ...]] | None
    place: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """Indices along every axis, ascending; what to turn around, and which axes to drop."""

    tensor_shape: tuple[int, ...]
    axes: tuple[range, ...]
    flipped: tuple[bool, ...]
    dropped: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        pairs = zip(self.axes, self.dropped, strict=True)
        return tuple(len(axis) for axis, dropped in pairs if not dropped)

    @property
    def elems(self) -> int:
        return math.prod(map(len, self.axes))

    def slabs(self, limit: int) -> Iterator[Slab]:
        """Runs that hold everything picked; one that holds more has at most `limit` elements.

        What lies between two picked elements is run over where it is short.
        """
        if self.elems:
            yield from self._slabs(0, 0, (), limit)

    def finish(self, out: Any) -> Any:
        """The result, from an array of all axes."""
        backward = tuple(slice(None, None, -1) if f else slice(None) for f in self.flipped)
        out = out[backward].reshape(self.shape) if any(self.flipped) else out.reshape(self.shape)
        return out.copy() if any(self.flipped) and out.base is not None else out

    def _slabs(self, axis: int, base: int, place: tuple[Any, ...], limit: int) -> Iterator[Slab]:
        if axis == len(self.axes):
            yield Slab(base, 1, None, (*place, ...))
            return
        strides = [math.prod(self.tensor_shape[i + 1 :]) for i in range(len(self.axes))]
        here, rest = self.axes[axis], self.axes[axis + 1 :]
        inner = list(zip(rest, strides[axis + 1 :], strict=True))
        low = sum(r.start * stride for r, stride in inner)
        extent = 1 + sum((len(r) - 1) * r.step * stride for r, stride in inner)
        step = here.step * strides[axis]
        whole = extent == math.prod(map(len, rest))  # nothing is skipped inside
        exact = whole and (step == extent or len(here) == 1)
        if not exact and (step - extent > _GAP_ELEMS or extent > limit or len(here) == 1):
            for k, i in enumerate(here):
                yield from self._slabs(axis + 1, base + i * strides[axis], (*place, k), limit)
            return
        group = len(here) if exact else max(1, (limit - extent) // step + 1)
        for k in range(0, len(here), group):
            count = min(group, len(here) - k)
            shape = (count, *map(len, rest))
            steps = (shape, (step, *(r.step * stride for r, stride in inner)))
            yield Slab(
                base + here[k] * strides[axis] + low,
                (count - 1) * step + extent,
                None if exact else steps,
                (*place, slice(k, k + count), ...),
            )


def pick(index: Any, shape: tuple[int, ...], name: str) -> Pick:
    """What `index` means for a tensor of `shape`: integers, slices and `...`, as numpy has them.

    Raises IndexError for one that is out of bounds or of another kind.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, part in enumerate(parts) if part is ...]
    if len(dots) > 1 or len(parts) - len(dots) > len(shape):
        raise IndexError(f"{name}: too many indices for the shape {list(shape)}")
    at = dots[0] if dots else len(parts)
    fill = [slice(None)] * (len(shape) - len(parts) + len(dots))
    parts = parts[:at] + fill + parts[at + 1 :]
    axes, flipped, dropped = [], [], []
    for number, (part, size) in enumerate(zip(parts, shape, strict=True)):
        chosen = _along(part, size, f"{name}: axis {number}")
        backward = chosen.step < 0
        axes.append(chosen[::-1] if backward else chosen)
        flipped.append(backward)
        dropped.append(not isinstance(part, slice))
    return Pick(shape, tuple(axes), tuple(flipped), tuple(dropped))


def _along(part: Any, size: int, where: str) -> range:
    if isinstance(part, slice):
        return range(*part.indices(size))
    try:
        if isinstance(part, bool) or type(part).__name__ in ("bool", "bool_"):
            raise TypeError  # numpy takes them as masks
        number = as_integer(part)
    except TypeError:
        raise IndexError(
            f"{where}: a {type(part).__name__} is no index here; allowed are integers, slices and "
            "`...`; for masks, lists and new axes take to_numpy() first"
        ) from None
    if not -size <= number < size:
        raise IndexError(f"{where}: {number} is out of bounds for {size}")
    return range(number % size, number % size + 1)


def read_index(tensor: Tensor, picked: Pick, open_file: OpenFile) -> npt.NDArray[Any]:
    """The values that an index picks, in an owned array; only blocks that hold some are read.

    No checksum of an archive is compared: that would read the entry to its end.
    """
    step = step_for(tensor)
    kind = held_as(step.dtype)
    out = np.empty([len(axis) for axis in picked.axes], kind)
    if picked.elems:
        source = Values(tensor, open_file, step)
        scratch = np.empty(0, kind)
        for slab in picked.slabs(_SLAB_ELEMS):
            target = out[slab.place]
            if slab.steps is None:
                source.fill(slab.first, target.reshape(-1))
                continue
            if len(scratch) < slab.length:
                scratch = np.empty(slab.length, kind)
            source.fill(slab.first, scratch[: slab.length])
            shape, steps = slab.steps
            strides = tuple(s * kind.itemsize for s in steps)
            target[...] = np.lib.stride_tricks.as_strided(scratch, shape, strides, writeable=False)
    values = as_public(picked.finish(out), step.dtype)
    return values if values.ndim else values[()]  # as numpy does: a scalar
