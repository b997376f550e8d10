"""From rows of the table to derived tensors: where every element of a tensor comes from.

A `Link` ties one Hugging Face tensor, or a part of it, to one GGUF tensor, or a part of it. All the
links that end in a tensor make it; those that begin in one share its elements. Either side can be
the source, as patterns say the same in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from anamnesis.errors import FormatError
from anamnesis.names.derived import Part, Segment, derive
from anamnesis.names.facts import Facts
from anamnesis.names.pattern import Pattern, Side
from anamnesis.names.values import inverse
from anamnesis.readers.base import Tensor

Direction = Literal["to-hf", "to-gguf"]

_MOST_RUNS = 1 << 12


@dataclass(frozen=True, slots=True)
class Link:
    """One part of one tensor on each side; `value` is what GGUF stores of what HF stores.

    `facts` gives the sizes of axes that shapes alone do not tell.
    """

    hf: str
    gguf: str
    pattern: Pattern
    value: str = ""
    facts: Facts | None = None

    def ends(self, direction: Direction) -> tuple[str, str]:
        """`(source, target)`."""
        return (self.gguf, self.hf) if direction == "to-hf" else (self.hf, self.gguf)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a source: its axes with sizes and strides, in elements, from `base` on."""

    source: Tensor
    base: int
    sizes: Mapping[str, int]
    strides: Mapping[str, int]


def arrange(
    links: Sequence[Link], sources: Mapping[str, Tensor], direction: Direction
) -> list[Tensor]:
    """Every target tensor whose sources are all there, in the order of the links.

    Raises FormatError where shapes contradict the table, a target lacks one of its parts, or sizes
    are not said, with all the key/values that would say them.
    """
    outgoing: dict[str, list[int]] = {}
    incoming: dict[str, list[int]] = {}
    for number, link in enumerate(links):
        source, target = link.ends(direction)
        outgoing.setdefault(source, []).append(number)
        incoming.setdefault(target, []).append(number)
    pieces: dict[int, _Piece] = {}
    lacking: dict[str, Tensor] = {}
    for name, numbers in outgoing.items():
        mine = [links[n] for n in numbers]
        try:
            pieces.update(zip(numbers, _cut(sources[name], mine, direction), strict=True))
        except ValueError as error:
            keys = _unsaid(mine)
            if not keys:
                raise _misfit(sources[name], mine, direction, error) from error
            lacking.update((key, sources[name]) for key in keys if key not in lacking)
    if lacking:
        raise _speechless(lacking, direction)
    return [
        _join(target, [links[n] for n in numbers], [pieces[n] for n in numbers], direction)
        for target, numbers in incoming.items()
    ]


def _sides(link: Link, direction: Direction) -> tuple[Side, Side]:
    hf, gguf = link.pattern.hf, link.pattern.gguf
    return (gguf, hf) if direction == "to-hf" else (hf, gguf)


def _cut(tensor: Tensor, links: Sequence[Link], direction: Direction) -> list[_Piece]:
    """The parts of a source, one a link, in the order in which they lie along the joined axis.

    Raises ValueError where they do not fit its shape.
    """
    shape = tensor.shape
    sides = [_sides(link, direction)[0].expand(len(shape)) for link in links]
    known = [_known(link) for link in links]
    if len(links) > 1:
        _fill_joined(shape, sides, known, [dict(link.pattern.sizes) for link in links])
    pieces = []
    first = 0
    for side, sizes in zip(sides, known, strict=True):
        solved, strides = _solve(shape, side, sizes, joined=len(links) > 1)
        step, count = _along_join(side, solved, strides)
        if len(links) == 1:
            first = 0
        pieces.append(_Piece(tensor, first * step, solved, strides))
        first += count
    if len(links) > 1:
        total = _joined_total(shape, sides[0], pieces[0].sizes)
        if first != total:
            raise ValueError(f"parts of {first} where {total} lie along the joined axis")
    return pieces


def _misfit(
    tensor: Tensor, links: Sequence[Link], direction: Direction, why: ValueError
) -> FormatError:
    targets = " and ".join(link.ends(direction)[1] for link in links[:4])
    sizes = {
        f"; {text} {link.facts(text)}"
        for link in links
        if link.facts
        for _, text in link.pattern.sizes
        if not text.isdigit()
    }
    return FormatError(f"{_described(tensor)}: {why} ({targets}{''.join(sorted(sizes))})")


def _described(tensor: Tensor) -> str:
    where = tensor.components[0].stored.file.path
    return f"{where}: tensor {tensor.name!r:.200} {list(tensor.shape)}"


def _unsaid(links: Sequence[Link]) -> list[str]:
    """The key/values that would say sizes of these links, and do not."""
    return [
        key
        for link in links
        if link.facts
        for _, text in link.pattern.sizes
        if not text.isdigit() and not link.facts(text)
        for key in link.facts.lacking(text)
    ]


def _speechless(lacking: Mapping[str, Tensor], direction: Direction) -> FormatError:
    """`lacking` has, by key, the first tensor that cannot be cut without it."""
    remedy = (
        "`amn convert FILE --to gguf --gguf-kv KEY=NUMBER -o OUT` adds them"
        if direction == "to-hf"
        else "they are made of its config.json"
    )
    tensor = next(iter(lacking.values()))
    return FormatError(
        f"{_described(tensor)}: cannot be cut without sizes that the model does not say: "
        f"{', '.join(lacking)}; {remedy}"
    )


def _known(link: Link) -> dict[str, int]:
    sizes = {}
    for axis, text in link.pattern.sizes:
        if text.isdigit():
            sizes[axis] = int(text)
        elif link.facts is not None:
            size = link.facts(text)
            if size:
                sizes[axis] = size
    return sizes


def _solve(
    shape: tuple[int, ...], side: Side, known: Mapping[str, int], *, joined: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes and strides of a side's axes; what one dimension leaves open follows from its size."""
    sizes = dict(known)
    strides: dict[str, int] = {}
    for d, axes in enumerate(side.dims):
        taken = math.prod(sizes[a] for a in axes if a in sizes)
        unknown = [a for a in axes if a not in sizes]
        if joined and d == side.join:
            if unknown:
                raise ValueError(f"the size of axis {unknown[0]!r} is not known")
        elif len(unknown) == 1 and taken and shape[d] % taken == 0:
            sizes[unknown[0]] = shape[d] // taken
        elif unknown or taken != shape[d]:
            given = " x ".join(str(sizes.get(a, "?")) for a in axes)
            raise ValueError(f"dimension {d} is {shape[d]}, which is not {given}")
        step = math.prod(shape[d + 1 :])
        for axis in reversed(axes):
            strides[axis] = step
            step *= sizes[axis]
            if joined and side.joined and axis == side.joined[0]:  # of all parts, not of this one
                step = strides[side.joined[-1]] * (
                    shape[d] // math.prod(sizes[a] for a in side.around)
                )
    return sizes, strides


def _joined_total(shape: tuple[int, ...], side: Side, sizes: Mapping[str, int]) -> int:
    """Elements along the joined axis, or the joined dimension, of the whole tensor."""
    size = shape[side.join]
    unknown = [axis for axis in side.around if axis not in sizes]
    if unknown:
        raise ValueError(f"the sizes of axes {unknown} are not known")
    rest = math.prod(sizes[a] for a in side.around)
    if size % max(1, rest):
        raise ValueError(f"dimension {side.join} is {size}, no multiple of {rest}")
    return size // max(1, rest)


def _fill_joined(
    shape: tuple[int, ...],
    sides: Sequence[Side],
    known: Sequence[dict[str, int]],
    named: Sequence[Mapping[str, str]],
) -> None:
    """Sizes along the joined axis: of one part, or of equal ones, what the others leave.

    Parts with an axis that is `named`, whose size the file should have said, are not equal ones.
    """
    open_parts: list[tuple[int, str]] = []
    taken = 0
    for number, side in enumerate(sides):
        if side.join < 0:
            raise ValueError("several parts, and no axis that they are joined along")
        if sum(a not in known[number] for a in side.around) == 1:
            _split_evenly(shape[side.join], sides, known, number)
        unknown = [a for a in side.along if a not in known[number]]
        if len(unknown) > 1:
            raise ValueError(f"the sizes of axes {unknown} are not known")
        if unknown:
            open_parts.append((number, unknown[0]))
        else:
            taken += math.prod(known[number][a] for a in side.along)
    if not open_parts:
        return
    unsaid = [axis for number, axis in open_parts if axis in named[number]]
    if unsaid and len(open_parts) > 1:
        raise ValueError(f"the sizes of axes {unsaid} are not known")
    left = _joined_total(shape, sides[0], known[0]) - taken
    if left < 0 or left % len(open_parts):
        raise ValueError(f"{left} along the joined axis is left for {len(open_parts)} parts")
    for number, axis in open_parts:
        rest = math.prod(known[number][a] for a in sides[number].along if a != axis)
        each = left // len(open_parts)
        if each % max(1, rest):
            raise ValueError(f"{each} along the joined axis is no multiple of {rest}")
        known[number][axis] = each // max(1, rest)


def _split_evenly(
    size: int, sides: Sequence[Side], known: Sequence[dict[str, int]], number: int
) -> None:
    """Where all parts' sizes along the joined axis are known, the other axis follows."""
    side = sides[number]
    total = 0
    for other, sizes in zip(sides, known, strict=True):
        if any(axis not in sizes for axis in other.along):
            return
        total += math.prod(sizes[axis] for axis in other.along)
    missing = next(a for a in side.around if a not in known[number])
    rest = math.prod(known[number][a] for a in side.around if a in known[number])
    if total and size % (total * rest) == 0:
        known[number][missing] = size // (total * rest)


def _along_join(
    side: Side, sizes: Mapping[str, int], strides: Mapping[str, int]
) -> tuple[int, int]:
    """The step between neighbours along the joined axis, and how many this part has."""
    if side.join < 0:
        return 0, 0
    return strides[side.along[-1]], math.prod(sizes[a] for a in side.along)


def _join(
    name: str, links: Sequence[Link], pieces: Sequence[_Piece], direction: Direction
) -> Tensor:
    """The target of all these links."""
    sides = []
    for link, piece in zip(links, pieces, strict=True):
        side = _sides(link, direction)[1]
        rest = sum(axis.startswith("rest") for axis in piece.sizes)
        explicit = sum(axes != ("...",) for axes in side.dims)
        sides.append(side.expand(explicit + rest if ("...",) in side.dims else explicit))
    first = sides[0]
    inner = len(pieces) > 1 and (first.join > 0 or first.dims[first.join][0] != first.along[0])
    shape = _shape(sides, pieces)
    sources: list[Tensor] = []
    numbers = []
    for piece in pieces:
        if piece.source not in sources:
            sources.append(piece.source)
        numbers.append(sources.index(piece.source))
    values = [_value(link, direction) for link in links]
    made: list[Segment] = []
    if inner and any(len(side.joined) > 1 for side in sides):
        made = _runs(name, sides, pieces, numbers)
        made = [replace(segment, value=values[0]) for segment in made]
    elif inner:
        made = [replace(_box(sides, pieces, numbers), value=values[0])]
    else:
        start = 0
        for side, piece, number, value in zip(sides, pieces, numbers, values, strict=True):
            made.append(replace(_box([side], [piece], [number], start), value=value))
            start += made[-1].elems
    return derive(name, shape, tuple(sources), tuple(made))


def _runs(
    name: str, sides: Sequence[Side], pieces: Sequence[_Piece], numbers: Sequence[int]
) -> list[Segment]:
    """Segments of pieces whose joined axes differ: all pieces, for each index of the axes before.

    Raises FormatError where these are more than any model's heads.
    """
    dims, joined = sides[0].dims, sides[0].joined
    before = [axis for dim in dims[: sides[0].join] for axis in dim]
    before += dims[sides[0].join][: dims[sides[0].join].index(joined[0])]
    sizes = [pieces[0].sizes.get(axis, 1) for axis in before]
    if math.prod(sizes) > _MOST_RUNS:
        raise FormatError(
            f"tensor {name!r:.200}: found {math.prod(sizes)} groups of rows; at most {_MOST_RUNS} "
            "can be rearranged"
        )
    made: list[Segment] = []
    start = 0
    for index in product(*map(range, sizes)):
        for side, piece, number in zip(sides, pieces, numbers, strict=True):
            offset = sum(i * piece.strides.get(a, 0) for i, a in zip(index, before, strict=True))
            inside = Side((tuple(a for dim in side.dims for a in dim if a not in before),))
            moved = replace(piece, base=piece.base + offset)
            made.append(_box([inside], [moved], [number], start))
            start += made[-1].elems
    return made


def _value(link: Link, direction: Direction) -> str:
    """What is done to each number on the way to the other side."""
    return inverse(link.value) if direction == "to-hf" else link.value


def _shape(sides: Sequence[Side], pieces: Sequence[_Piece]) -> tuple[int, ...]:
    shape = []
    for d, axes in enumerate(sides[0].dims):
        if d == sides[0].join and len(pieces) > 1:
            counts = []
            for side, piece in zip(sides, pieces, strict=True):
                counts.append(math.prod(piece.sizes.get(a, 1) for a in side.dims[d]))
            shape.append(sum(counts))
        else:
            shape.append(math.prod(pieces[0].sizes.get(a, 1) for a in axes))
    return tuple(shape)


def _box(
    sides: Sequence[Side], pieces: Sequence[_Piece], numbers: Sequence[int], start: int = 0
) -> Segment:
    """One segment; several pieces share it, each with its range along the joined axis."""
    side = sides[0]
    axes = [a for dim in side.dims for a in dim]
    joined = -1
    if len(pieces) > 1:
        joined = axes.index(side.along[0])
    dims = [pieces[0].sizes.get(a, 1) for a in axes]
    parts = []
    at = 0
    for own, piece, number in zip(sides, pieces, numbers, strict=True):
        names = [a for dim in own.dims for a in dim]
        lo = [0] * len(names)
        hi = [piece.sizes.get(a, 1) for a in names]
        if joined >= 0:
            lo[joined], hi[joined] = at, at + hi[joined]
            at = hi[joined]
        strides = [piece.strides.get(a, 0) for a in names]
        parts.append(Part(number, tuple(lo), tuple(hi), piece.base, tuple(strides)))
    if joined >= 0:
        dims[joined] = at
    return Segment(start, tuple(dims), tuple(parts))
