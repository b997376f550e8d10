"""Bodies of `kernels/fp8.py`, which has the layout."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from anamnesis.kernels.bodies._fp8_vector import (
    ENTRIES,
    STEP,
    has_lanes,
    has_tables,
    load_scales,
    load_table,
    look_up,
    to_reals,
    to_reals_e5m2fnuz,
)
from anamnesis.kernels.bodies._jit import inline, jit, local, put, stack
from anamnesis.kernels.bodies._vector import load32, store
from anamnesis.kernels.types import Array, Bytes, Floats, Halves

_MAGNITUDES = np.arange(ENTRIES, dtype=np.uint8)
_TABLES = 128  # kept at a time: 32 KiB; rows are written in runs of at least 4,096 elements
_WORTH_A_TABLE = 512  # elements under one scale
_HUGE = np.float32(2.0**120)  # scales that a format's factor would make infinite

_room = stack(4 * _TABLES * ENTRIES)


# The 256 values; where a code is shifted to and masked as binary16; the bits that are looked at
# for a NaN, and what they are; a factor; and the NaN of `look_up`.
Code: TypeAlias = tuple[Floats, int, int, int, int, float, int]


@jit
def scaled(
    codes: Bytes,
    scale: Floats,
    code: Code,
    per: int,
    columns: int,
    bm: int,
    bn: int,
    row: int,
    out: Array,
) -> None:
    """Rows from `row` on: `bm` rows by `bn` columns share a scale, `per` rows are a matrix."""
    tables = local(_room(), _TABLES * ENTRIES, out.dtype)
    each = has_lanes() and bn == 1 and columns >= STEP
    done, rows = 0, out.shape[0] // columns
    while done < rows:
        line = (row + done) % per
        scales = scale[min((row + done) // per, scale.shape[0] - 1), line // bm]
        same = min(rows - done, bm - line % bm, per - line)  # rows under the same scales
        at = done * columns
        if each:
            for start in range(at, at + same * columns, columns):
                _each(codes, start, scales, code, out)
        elif len(scales) == 1:
            _rows(codes, at, 1, same * columns, scales, same * columns, code, tables, out)
        else:
            _rows(codes, at, same, columns, scales, bn, code, tables, out)
        done += same


@inline
def _rows(
    codes: Bytes, at: int, rows: int, columns: int, scales: Floats, bn: int, code: Code,
    tables: Array, out: Array,
) -> None:  # fmt: skip
    """`rows` rows from element `at` on; `scales[b]` is that of columns `[b * bn, b * bn + bn)`."""
    if not (has_tables(out) and bn >= STEP and rows * bn >= _WORTH_A_TABLE):
        for start in range(at, at + rows * columns, columns):
            _row(codes, start, start + columns, scales, bn, code, out, start)
        return
    for first in range(0, len(scales), _TABLES):
        blocks = min(_TABLES, len(scales) - first)
        for block in range(blocks):
            s = scales[first + block : first + block + 1]
            # The values of codes 0-127 under a scale; bit 7 of a code is the sign that `look_up`
            # adds.
            _row(_MAGNITUDES, 0, ENTRIES, s, ENTRIES, code, tables, block * ENTRIES)
        for start in range(at, at + rows * columns, columns):
            for block in range(blocks):
                begin = start + (first + block) * bn
                end = min(begin + bn, start + columns)
                if end - begin >= STEP:
                    _look_up(codes, begin, end, code[-1], tables, block * ENTRIES, out)
                else:
                    s = scales[first + block : first + block + 1]
                    _row(codes, begin, end, s, bn, code, out, begin)


@inline
def _row(
    codes: Bytes,
    begin: int,
    end: int,
    scales: Floats,
    bn: int,
    code: Code,
    out: Array,
    to: int,
) -> None:
    """Elements `[begin, end)`, every `bn` under the next scale, to `out[to]` and on."""
    values, shift, mask, keep, nan, factor, _ = code
    to -= begin
    for block in range(len(scales)):
        scale = scales[block]
        stop = min(begin + bn, end)
        # A factor may make a scale infinite that the values are not.
        if not has_lanes() or stop - begin < STEP or abs(scale) >= _HUGE:
            for j in range(begin, stop):
                put(out, to + j, values[codes[j]] * scale)
        elif shift:
            for j in range(begin, stop, STEP):
                j = min(j, stop - STEP)  # the last step goes over some elements again
                reals = to_reals(load32(codes, j), shift, mask, keep, nan)
                store(out, to + j, reals * (scale * np.float32(factor)))
        else:
            for j in range(begin, stop, STEP):
                j = min(j, stop - STEP)
                store(out, to + j, to_reals_e5m2fnuz(load32(codes, j)) * scale)
        begin = stop


@inline
def _look_up(
    codes: Array, begin: int, end: int, nan: int, tables: Halves, table: int, out: Array
) -> None:
    t0, t1 = load_table(tables, table), load_table(tables, table + STEP)
    t2, t3 = load_table(tables, table + 2 * STEP), load_table(tables, table + 3 * STEP)
    for j in range(begin, end, STEP):
        j = min(j, end - STEP)
        look_up(out, j, load32(codes, j), nan, t0, t1, t2, t3)


@inline
def _each(codes: Array, at: int, scales: Array, code: Code, out: Array) -> None:
    """A row from element `at` on, every element under a scale of its own."""
    _, shift, mask, keep, nan, factor, _ = code
    for j in range(0, len(scales), STEP):
        j = min(j, len(scales) - STEP)
        if shift:
            reals = to_reals(load32(codes, at + j), shift, mask, keep, nan)
        else:
            reals = to_reals_e5m2fnuz(load32(codes, at + j))
        store(out, at + j, reals * np.float32(factor) * load_scales(scales, j))
