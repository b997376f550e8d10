"""Which ranges of which files a task reads, in its order: arithmetic, nothing is read here.

A tensor's units say it, by the placements of its components. A derived tensor reads boxes of its
sources' elements: rows of a box that are near one another are one range, as what is between them is
fetched with them. Such ranges are *loose*: not all of them is read, or some more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anamnesis.limits import KiB
from anamnesis.names.derived import Derived, Segment
from anamnesis.pipeline.gather import boxes
from anamnesis.pipeline.plan import source_dtype, source_steps, with_dtype
from anamnesis.pipeline.stored_blocks import stored_blocks
from anamnesis.pipeline.work import Step, Task, units_of
from anamnesis.readers.base import Component, Range
from anamnesis.readers.batch import iter_windows
from anamnesis.readers.source import is_url

_NEAR_BYTES = 64 * KiB


def is_plain(component: Component) -> bool:
    """Whether a component's bytes lie in a file behind a URL as they are read."""
    stored = component.stored
    if not is_url(stored.file.path):
        return False
    view = stored.view
    if view is None:
        return True
    deflated = view.member is not None and view.member.deflated
    return view.strides is None and view.rows is None and not deflated


def local_ranges_of(task: Task) -> Iterator[Range]:
    """What the pieces of a task read from files of this machine that hold it as it is read."""
    for piece in task.pieces:
        for step, start, stop, _ in piece.reads():
            if not isinstance(step.tensor, Derived):
                yield from ranges_of_step(step, start, stop, parameters=False, wanted=_is_here)


def _is_here(component: Component) -> bool:
    return component.stored.view is None and not is_url(component.stored.file.path)


def ranges_of(task: Task) -> Iterator[Range]:
    """What a task reads from behind URLs, in its order; what is hard to tell is left out."""
    for piece in task.pieces:
        opened: list[Step] = []
        for step, start, stop, loose in piece.reads():
            again = any(step is known for known in opened)
            yield from ranges_of_step(step, start, stop, parameters=not again, loose=loose)
            if not again:
                opened.append(step)


def ranges_of_step(
    step: Step,
    start: int,
    stop: int,
    *,
    parameters: bool = True,
    loose: bool = False,
    wanted: Callable[[Component], bool] = is_plain,
) -> Iterator[Range]:
    """What the windows of units `[start, stop)` read, and the `parameters` of the whole tensor.

    Of components that are `wanted`: those behind URLs.
    """
    tensor = step.tensor
    if isinstance(tensor, Derived):
        yield from _of_derived(step, start, stop)
        return
    components = [c for c in tensor.components if wanted(c)]
    for component in components:
        if parameters and not component.placement.windowed:
            stored = component.stored
            yield Range(stored.file, stored.offset, stored.offset + stored.nbytes, loose)
    windowed = [c for c in components if c.placement.windowed]
    for batch in iter_windows(tensor, step.batch_units, start, stop):
        for component in windowed:
            stored = component.stored
            for begin, end in component.placement.ranges(stored.nbytes, batch):
                yield Range(stored.file, stored.offset + begin, stored.offset + end, loose)


def _of_derived(step: Step, start: int, stop: int) -> Iterator[Range]:
    """What is read of the sources of a derived tensor, in the way of `windows.gathering`."""
    tensor = step.tensor
    assert isinstance(tensor, Derived)
    dtype, source_step = source_dtype(tensor), source_steps(tensor)
    stored = stored_blocks(tensor, tuple(with_dtype(s, dtype) for s in tensor.sources))
    if stored is not None:
        size = stored.block_bytes
        blocks = stored.segments, stored.block_elems, size
        for number, first, last in _runs(step, start, stop, blocks):
            component = tensor.sources[number].components[0]
            if is_plain(component):
                at = component.stored.offset
                yield Range(component.stored.file, at + first * size, at + last * size, loose=True)
        return
    steps: dict[int, Step] = {}
    for number, first, last in _runs(step, start, stop, (tensor.segments, 1, 1)):
        new = number not in steps
        source = steps.setdefault(number, source_step(number)) if new else steps[number]
        units = units_of(source.tensor, first, last)
        yield from ranges_of_step(source, *units, parameters=new, loose=True)


def _runs(
    step: Step, start: int, stop: int, blocks: tuple[Sequence[Segment], int, int]
) -> Iterator[tuple[int, int, int]]:
    """`(source, first, last)`, batch by batch.

    `blocks` are the segments, elements of what they count, and about its bytes.
    """
    tensor = step.tensor
    segments, elems, size = blocks
    unit, end = tensor.unit_elems // elems, tensor.elems // elems
    for batch in iter_windows(tensor, step.batch_units, start, stop):
        for box in boxes(segments, batch.start * unit, min(batch.stop * unit, end)):
            for part, index, place in box.parts():
                base, strides = box.place_in(part, index)
                shape = [axis.stop - axis.start for axis in place]
                for first, last in spans(base, strides, shape, _NEAR_BYTES // size):
                    yield part.source, first, last


def spans(
    base: int, strides: Sequence[int], shape: Sequence[int], near: int
) -> Iterator[tuple[int, int]]:
    """Flat ranges that have the elements of a box; those with at most `near` between are one."""
    if 0 in shape:
        return
    extent, apart = 1, list[Any]()
    for stride, count in sorted(zip(strides, shape, strict=True)):
        if count > 1 and (apart or stride - extent > near):
            apart.insert(0, np.arange(count) * stride)
        elif count > 1:
            extent += (count - 1) * stride
    firsts = np.array([base])
    for offsets in apart:
        firsts = (firsts[:, None] + offsets).reshape(-1)
    for first in firsts.tolist():
        yield first, first + extent
