"""Layouts of packed codes to rows of numbers, without a pass for the transpose.

GPTQ, AutoRound and AWQ store `[in, out]`, as streams of codes (`_codes.py`) that run along one
axis; 32 codes of b bits fill exactly b words of 32 bits. The streams of some output rows are
gathered into a tile of fixed size: words are turned, not elements. Each row of the tile is then
unpacked, scaled and stored in order, so that the output is written once.

The indices and shapes are the callers' to check: nothing here is bounds-checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels._packed import COLUMNS, SCATTERED, block_inputs
from anamnesis.kernels.bodies._affine import applier
from anamnesis.kernels.bodies._codes import read_line, spread, spread_padded
from anamnesis.kernels.bodies._jit import jit, local, stack, variants
from anamnesis.kernels.bodies._pairs import pair, scale_each, scale_pairs, scale_scattered
from anamnesis.kernels.bodies._transpose import (
    LANES,
    prefetch,
    transpose8,
    transpose8_rows,
    transpose_nibbles,
)
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats, Numbers, Words

AS_THEY_ARE = (4, 8)  # bits of codes that are not spread to bytes before they are applied
_codes = stack(8192)  # `block_inputs` at most
_planes = stack(4 * LANES**3)


def _filler(bits: int, nibbles: bool) -> Any:
    """The streams of inputs `first` to `last` of some columns, as rows of a tile."""
    if nibbles:

        def turn(words: Words, first: int, last: int, column: int, tile: Words) -> None:
            planes = local(_planes(), (LANES, LANES, LANES), np.uint32)
            _turn_nibbles(words, first, last, column // LANES, planes, tile)

    else:

        def turn(words: Words, first: int, last: int, column: int, tile: Words) -> None:
            _turn(words, first * bits // 32, -(-last * bits // 32), column, tile)

    return jit(turn)


@variants
def decode_runs(bits: int, nibbles: bool, *how: int | str) -> Any:
    """Columns of words to rows of `out`, where long runs of inputs share a group.

    `(words, starts, groups, zeros, scales, room, out)`: `words` is uint32
    `[in * bits / 32, rows]`, or `[in, rows / 8]` when each holds the `nibbles` of eight outputs in
    AWQ's order. Run k is inputs `[starts[k], starts[k + 1])` of group `groups[k]`; no run crosses a
    multiple of `block_inputs`. `zeros` and `scales` are float32 `[groups, rows]`, `out` is
    `rows * inputs` elements, `room` is what `room_for_runs` gives, `how` what `applier` takes.
    """
    block, to_bytes, apply = block_inputs(bits, nibbles), spread(bits), applier(bits, *how)
    fill = _filler(bits, nibbles)

    def rows_of(
        words: Words,
        starts: Array,
        groups: Array,
        zeros: Floats,
        scales: Floats,
        room: tuple[Words, Floats, Floats],
        out: Array,
    ) -> None:
        tile, zero_tile, scale_tile = room
        columns, inputs = tile.shape[0], int(starts[groups.shape[0]])
        streams = tile.view(np.uint8)
        codes = local(_codes(), block, np.uint8)
        rows = zeros.shape[1]
        for column in range(0, rows, columns):
            _turn_rows(zeros, groups, column, zero_tile)
            _turn_rows(scales, groups, column, scale_tile)
            run = 0
            for first in range(0, inputs, block):
                last = min(first + block, inputs)
                fill(words, first, last, column, tile)
                # No run crosses a block: [run, end) are those of this one.
                end = run
                while starts[end] < last:
                    end += 1
                # A row of the turned tile is a stream again: its bytes in their order.
                size = -(-(last - first) * bits // 8)
                for lane in range(min(columns, rows - column)):
                    line = lane
                    if nibbles:  # tile rows are in the order of nibbles, then of words
                        line = (lane % 8 // 2 + lane % 2 * 4) * LANES + lane // LANES
                    source = streams[line, :size]
                    if bits not in AS_THEY_ARE:
                        to_bytes(source, codes)
                        source = codes
                    row, zero, scale = (column + lane) * inputs, zero_tile[lane], scale_tile[lane]
                    apply(source, starts, (first, run, end), zero, scale, out, row)
                run = end

    return rows_of


@variants
def decode_scattered(bits: int, narrow: bool) -> Any:
    """As `decode_runs`, where input i is of group `index[i]` and neighbours rarely share one.

    `(words, index, zeros, scales, kind, room, out)`. `narrow` scales were stored in 16
    bits, which leaves the low bits of a float32 to the zero point: gathering both for each input
    is most of the work. `kind` (`_narrow.KINDS`) is what values are rounded to first; `room` is
    what `room_for_scattered` gives.
    """
    to_bytes = spread(bits)

    def rows_of(
        words: Words,
        index: Array,
        zeros: Floats,
        scales: Floats,
        kind: int,
        room: tuple[Words, Floats, Floats, Words],
        out: Array,
    ) -> None:
        tile, zero_tile, scale_tile, grid = room
        streams, both = tile.view(np.uint8), scale_tile.view(np.uint32)
        codes = local(_codes(), SCATTERED, np.uint8)
        rows, inputs = zeros.shape[1], index.shape[0]
        if narrow:
            pair(zeros, scales, grid)
        for column in range(0, rows, COLUMNS):
            for first in range(0, inputs, SCATTERED):
                last = min(first + SCATTERED, inputs)
                _turn(words, first * bits // 32, -(-last * bits // 32), column, tile)
                _turn_rows(grid, index[first:last], column, both)
                if not narrow:
                    _turn_rows(zeros, index[first:last], column, zero_tile)
                size = -(-(last - first) * bits // 8)
                for lane in range(min(COLUMNS, rows - column)):
                    source = streams[lane, :size]
                    if bits != 8:
                        to_bytes(source, codes)
                        source = codes
                    part, here = source[: last - first], out[(column + lane) * inputs + first :]
                    if narrow:
                        scale_pairs(part, both[lane], kind, here)
                    else:
                        scale_each(part, zero_tile[lane], scale_tile[lane], kind, here)

    return rows_of


@variants
def decode_rows(bits: int, padded: bool, *how: int | str) -> Any:
    """Streams that lie as rows to rows of `out`, where long runs of inputs share a group.

    `(starts, streams, zeros, scales, room, out)`: `streams` is uint8 `[rows, bytes]`, of `padded`
    words or dense, run k of group k. `zeros` and `scales` are each the bits of numbers
    `[rows, groups or more]`, or one line for all rows, and whether these are binary16. `room` is
    for a row's codes, rounded up to 32, its zeros and its scales; `how` is what `applier` takes.
    """
    to_bytes, apply = (spread_padded if padded else spread)(bits), applier(bits, *how)

    def rows_of(
        starts: Array,
        streams: Bytes,
        zeros: Numbers,
        scales: Numbers,
        room: tuple[Bytes, Floats, Floats],
        out: Array,
    ) -> None:
        codes, zero, scale = room
        runs = starts.shape[0] - 1
        inputs = starts[runs]
        for row in range(streams.shape[0]):
            source = streams[row]
            if bits not in AS_THEY_ARE:
                to_bytes(source, codes)
                source = codes
            read_line(zeros, row, zero)
            read_line(scales, row, scale)
            apply(source, starts, (0, 0, runs), zero, scale, out, row * inputs)

    return rows_of


@variants
def decode_rows_scattered(bits: int, padded: bool, negative: bool, narrow: bool, kind: int) -> Any:
    """As `decode_rows`, column i of group `index[i]`.

    `(index, streams, zeros, scales, room, out)`: `room` is besides for two uint32 a column
    and one a group. `negative` bytes have 128 added, and so have to have had their zero points;
    `narrow` and `kind` are as in `decode_scattered`.
    """
    to_bytes = (spread_padded if padded else spread)(bits)

    def rows_of(
        index: Array,
        streams: Bytes,
        zeros: Numbers,
        scales: Numbers,
        room: tuple[Bytes, Floats, Floats, Words],
        out: Array,
    ) -> None:
        codes, zero, scale, words = room
        inputs = index.shape[0]
        for row in range(streams.shape[0]):
            to_bytes(streams[row], codes)
            if negative:
                for i in range(inputs):
                    codes[i] ^= np.uint8(0x80)
            read_line(zeros, row, zero)
            read_line(scales, row, scale)
            here = out[row * inputs : row * inputs + inputs]
            scale_scattered(codes, index, zero, scale, (narrow, kind), words, here)

    return rows_of


@jit
def _turn(words: Array, first: int, last: int, column: int, tile: Array) -> None:
    """Words `[first, last)` of the columns that `tile` has rows for, each column to a row."""
    columns = min(tile.shape[0], words.shape[1] - column)
    whole = columns - columns % LANES
    blocks = last - (last - first) % LANES
    # At every second tile the lines of the next two come near: a tile is one cache line wide.
    pairs = column % (2 * COLUMNS) == 0
    for row in range(first, blocks, LANES):
        for lane in range(0, whole, LANES):
            transpose8(words, row, column + lane, tile, lane, row - first)
        if pairs:
            for ahead in range(row, row + LANES):
                prefetch(words, ahead, column + 2 * COLUMNS)
                prefetch(words, ahead, column + 3 * COLUMNS)
    # What blocks of eight by eight leave over goes word by word.
    for row in range(first, last):
        for lane in range(whole if row < blocks else 0, columns):
            tile[lane, row - first] = words[row, column + lane]


@jit
def _turn_rows(grid: Array, rows: Array, column: int, tile: Array) -> None:
    """`tile[i, j] = grid[rows[j], column + i]` for the columns that `tile` has rows for."""
    columns = min(tile.shape[0], grid.shape[1] - column)
    whole = columns - columns % LANES
    blocks = rows.shape[0] - rows.shape[0] % LANES
    for at in range(0, blocks, LANES):
        for lane in range(0, whole, LANES):
            transpose8_rows(grid, rows, at, column + lane, tile, lane, at)
    for at in range(rows.shape[0]):
        for lane in range(whole if at < blocks else 0, columns):
            tile[lane, at] = grid[rows[at], column + lane]


@jit
def _turn_nibbles(
    words: Array, first: int, last: int, column: int, planes: Array, tile: Array
) -> None:
    """Rows `[first, last)` of eight columns: nibble k of column c to stream `8 * k + c`."""
    columns = min(LANES, words.shape[1] - column)
    blocks = first
    if columns == LANES:
        blocks = last - (last - first) % (LANES * LANES)
    odd = column % (2 * LANES)  # the line came with the even ones
    for row in range(first, blocks, LANES * LANES):
        at = (row - first) // LANES
        for j in range(LANES):
            if not odd:
                for ahead in range(row + LANES * j, row + LANES * j + LANES):
                    prefetch(words, ahead, column + 2 * LANES)
            # A word of AWQ has the nibbles of eight outputs; planes[k] has nibble k of each word.
            transpose_nibbles(words, row + LANES * j, column, planes, j)
        for k in range(LANES):
            transpose8(planes[k], 0, 0, tile, LANES * k, at)
    for row in range(blocks, last, LANES):
        for c in range(columns):
            for k in range(LANES):
                word = u32(0)
                for j in range(min(LANES, last - row)):
                    nibble = u32(u32(words[row + j, column + c] >> u32(4 * k)) & u32(15))
                    word = u32(word | u32(nibble << u32(4 * j)))
                tile[LANES * k + c, (row - first) // LANES] = word
