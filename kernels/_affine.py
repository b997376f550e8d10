"""Integers under scales and zeros: what a tensor says of them, and rows of them to values.

A family brings its codes into one of a few layouts (rows of streams here, words down the columns
in `_packed.py`, bit planes in `_planar_scales.py`), and its scales and zeros into float32; the
formulas, and what applies them to codes, are in `bodies/_affine.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from anamnesis.kernels._narrow import KINDS
from anamnesis.kernels._native import variants
from anamnesis.kernels._packed import room_for_runs, runs_of
from anamnesis.kernels.types import Array, Bytes, Floats, Indices, Numbers, Params, Words

_LINE = 4096  # codes
_columns = variants("_packed:decode_runs")
_rows = variants("_packed:decode_rows")
_rows_scattered = variants("_packed:decode_rows_scattered")


@dataclass(frozen=True, slots=True)
class Affine:
    """How codes of a tensor are stored, and what they stand for.

    `order` of a stream: dense, padded (words hold whole codes), or nibbles (AWQ's); planar
    codes are none (`_planar_scales.py`). Codes are in two's complement if `signed`. `zero` is
    one of the formulas of `bodies/_affine.py`, whose two steps are rounded to the dtypes `once`
    and `twice`. `small` says that zero points, of signed codes plus 128, are whole numbers from
    0 to 255.
    """

    bits: int
    scale_dtype: str
    order: str = "dense"
    signed: bool = False
    zero: str = "before"
    once: str = "F32"
    twice: str = "F32"
    small: bool = True

    @classmethod
    def of(cls, scalars: Params, narrow: tuple[str, ...] = ("F16",), **more: Any) -> Self:
        """That of a tensor's parameters; `reference` rounds values to the scales' dtype.

        It does where the dtype is one of `narrow`, which those are that the library computes in.
        """
        dtype = scalars["scale_dtype"]
        rounds = scalars.get("rounding") == "reference" and dtype in narrow
        return cls(scalars["bits"], dtype, **{"twice": dtype if rounds else "F32", **more})

    def how(self, groups: Groups, out: Array) -> tuple[bool, int, str, int, int]:
        """The constants of `applier` after the number of bits."""
        return self.signed, groups.step, self.zero, KINDS[self.once], self.last(out)

    def last(self, out: Array) -> int:
        """What values are rounded to before they are stored in `out`."""
        return KINDS["F32" if out.dtype == np.uint16 and self.twice == "BF16" else self.twice]

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes."""
        return 0 if self.signed else 1 << (self.bits - 1)


@dataclass(frozen=True, slots=True)
class Groups:
    """Which inputs share a zero and a scale: runs of neighbours, or with an `index` each its own.

    Run k is inputs `[starts[k], starts[k + 1])` of group `of_run[k]`.
    """

    starts: Indices
    of_run: Indices
    index: Indices | None = None
    step: int = 1  # 32 or 16 if the lengths of all runs are multiples of it
    size: int = 0  # inputs of each run, if all have as many

    @classmethod
    def of(cls, index: Indices, block: int) -> Groups:
        """Those of each input's group; runs are cut at multiples of `block`."""
        starts, of_run = runs_of(index, max(1, block))
        lengths = np.diff(starts)
        step = next(step for step in (32, 16, 1) if not (lengths % step).any())
        same = lengths.size > 0 and (lengths == lengths[0]).all()
        return cls(starts, of_run, step=step, size=int(lengths[0]) if same else 0)


@lru_cache(64)
def even_groups(inputs: int, size: int) -> Groups:
    """Groups of `size` inputs one after the other, for as many windows as ask for them."""
    return Groups.of(index_of(inputs, size), inputs)


def numbers(values: Array) -> Numbers:
    """Those of a float32 array."""
    return values.view(np.uint32), False


def index_of(inputs: int, size: int) -> Array:
    """The group of each input, int64; -1 or 0 for `size`: one group."""
    return np.arange(inputs, dtype=np.int64) // (size if size > 0 else max(1, inputs))


def check_index(index: Array, groups: int, role: str, unit: str) -> None:
    """Raise ValueError for a group that does not exist."""
    bad = np.flatnonzero((index < 0) | (index >= groups))
    if bad.size:
        raise ValueError(
            f"{role}: {unit} {bad[0]:,} is of group {index[bad[0]]:,}; allowed is 0 to "
            f"{groups - 1:,}"
        )


def decode_rows(
    affine: Affine, groups: Groups, streams: Bytes, zeros: Numbers, scales: Numbers, out: Array
) -> None:
    """Rows of streams, uint8 `[rows, bytes]`, with numbers `[rows, groups]`.

    Zeros of one line are every row's. Sizes are the caller's to check.
    """
    padded = affine.order == "padded"
    if groups.index is None:
        decode = _rows(affine.bits, padded, *affine.how(groups, out))
        for starts, *parts, here in _lines(affine, groups, streams, zeros, scales, out):
            decode(starts, *parts, _room(affine, *parts), here)
        return
    narrow = affine.small and affine.scale_dtype != "F32"
    scattered = _rows_scattered(affine.bits, padded, affine.signed, narrow, affine.last(out))
    words = np.empty(2 * groups.index.size + scales[0].shape[1], np.uint32)
    room = *_room(affine, streams, zeros, scales), words
    scattered(groups.index, streams, zeros, scales, room, out)


def _room(affine: Affine, streams: Array, zeros: Numbers, scales: Numbers) -> tuple[Any, Any, Any]:
    """Room for the codes of a row, a byte each, and for its zeros and scales."""
    codes = np.empty(streams.shape[1] * 8 // affine.bits // 32 * 32 + 64, np.uint8)
    return codes, np.empty(zeros[0].shape[1], np.float32), np.empty(scales[0].shape[1], np.float32)


def _lines(
    affine: Affine, groups: Groups, streams: Array, zeros: Numbers, scales: Numbers, out: Array
) -> Iterator[tuple[Any, ...]]:
    """`starts` and the rest, short rows joined to lines of up to `_LINE` codes where they can be.

    What a row costs besides its codes is as much as some hundred of them.
    """
    rows, inputs, done = len(streams), int(groups.starts[-1]), 0
    # Whole rows that a line of codes has room for.
    many = min(rows, _LINE // max(1, inputs))
    # A row that ends within a byte or word does not go on in the next.
    whole = streams.shape[1] * 8 == inputs * affine.bits
    if many > 1 and whole and groups.size * scales[0].shape[1] == inputs:
        done = rows - rows % many
        lines = [(_joined(part, done, many), half) for part, half in (zeros, scales)]
        codes = _joined(streams, done, many)
        yield even_groups(many * inputs, groups.size).starts, codes, *lines, out[: done * inputs]
    if done < rows:
        rest = [(part[done:] if len(part) > 1 else part, half) for part, half in (zeros, scales)]
        yield groups.starts, streams[done:], *rest, out[done * inputs :]


def _joined(grid: Array, rows: int, many: int) -> Array:
    """The first rows of a grid, `many` in a line; a grid of one line is every row's."""
    return np.tile(grid, many) if len(grid) == 1 else grid[:rows].reshape(-1, many * grid.shape[1])


def decode_columns(
    affine: Affine, groups: Groups, words: Words, zeros: Floats, scales: Floats, out: Array
) -> None:
    """The same of words in columns, uint32 `[words, rows]` or `[inputs, rows / 8]` of nibbles.

    `zeros` and `scales` are float32 `[groups, rows]`; no run crosses a multiple of `block_inputs`.
    """
    nibbles = affine.order == "nibbles"
    decode = _columns(affine.bits, nibbles, *affine.how(groups, out))
    room = room_for_runs(affine.bits, nibbles, groups.of_run.size)
    decode(words, groups.starts, groups.of_run, zeros, scales, room, out)
