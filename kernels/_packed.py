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

from anamnesis.kernels._codes import RUNS, scale_each, spread
from anamnesis.kernels._jit import jit, variants
from anamnesis.kernels._pairs import pair, scale_pairs
from anamnesis.kernels._transpose import (
    LANES,
    prefetch,
    transpose8,
    transpose8_rows,
    transpose_nibbles,
)
from anamnesis.kernels.bits import u32

COLUMNS = 16  # a tile's output rows: one cache line of words
SCATTERED = 4096  # inputs a tile covers when each has a scale and a zero of its own
# Rows of a tile are a power of two apart but for this: their words would share cache sets.
PAD = 16


def block_inputs(bits: int, nibbles: bool) -> int:
    """Inputs that a tile covers: a multiple of 64 that keeps tile and codes in cache."""
    return 4096 if nibbles or bits > 4 else 8192


def runs_of(index: Any, block: int) -> tuple[Any, Any]:
    """Runs of inputs of one group, cut at multiples of `block`.

    Returns `starts`, int64 `[runs + 1]` with the number of inputs at its end, and the group of
    each run; `index` is the group of each input.
    """
    cuts = np.flatnonzero(np.diff(index)) + 1
    starts = np.unique(np.concatenate([cuts, np.arange(0, index.size, block), [index.size]]))
    return starts.astype(np.int64), index[starts[:-1]]


@variants
def decode_runs(bits: int, nibbles: bool, way: str) -> Any:
    """Columns of words to rows of `out`, where long runs of inputs share a group.

    `(words, starts, groups, zeros, scales, inputs, out)`: `words` is uint32
    `[in * bits / 32, rows]`, or `[in, rows / 8]` when each holds the `nibbles` of eight outputs in
    AWQ's order. Run k is inputs `[starts[k], starts[k + 1])` of group `groups[k]`; no run crosses a
    multiple of `block_inputs`. `zeros` and `scales` are float32 `[groups, rows]`, `out` is
    `rows * inputs` elements. `way` is of `way_of`.
    """
    block, columns = block_inputs(bits, nibbles), LANES * LANES if nibbles else COLUMNS
    width = block * bits // 32 + PAD
    to_bytes, decode = spread(bits), RUNS[way]
    if nibbles:

        def turn(words: Any, first: Any, last: Any, column: Any, tile: Any) -> None:
            planes = np.empty((LANES, LANES, LANES), np.uint32)
            _turn_nibbles(words, first, last, column // LANES, planes, tile)

    else:

        def turn(words: Any, first: Any, last: Any, column: Any, tile: Any) -> None:
            _turn(words, first * bits // 32, -(-last * bits // 32), column, tile)

    fill = jit(turn)

    def rows_of(
        words: Any, starts: Any, groups: Any, zeros: Any, scales: Any, inputs: Any, out: Any
    ) -> None:
        tile = np.empty((columns, width), np.uint32)
        streams = tile.view(np.uint8)
        codes = np.empty(block, np.uint8)
        zero_tile = np.empty((columns, groups.shape[0]), np.float32)
        scale_tile = np.empty((columns, groups.shape[0]), np.float32)
        rows = zeros.shape[1]
        for column in range(0, rows, columns):
            _turn_rows(zeros, groups, column, zero_tile)
            _turn_rows(scales, groups, column, scale_tile)
            run = 0
            for first in range(0, inputs, block):
                last = min(first + block, inputs)
                fill(words, first, last, column, tile)
                end = run
                while starts[end] < last:
                    end += 1
                size = -(-(last - first) * bits // 8)
                for lane in range(min(columns, rows - column)):
                    line = lane
                    if nibbles:  # tile rows are in the order of nibbles, then of words
                        line = (lane % 8 // 2 + lane % 2 * 4) * LANES + lane // LANES
                    source = streams[line, :size]
                    if bits != 8:
                        to_bytes(source, codes)
                        source = codes
                    at, zero, scale = (column + lane) * inputs, zero_tile[lane], scale_tile[lane]
                    decode(source, first, starts, run, end, zero, scale, out, at)
                run = end

    return rows_of


@variants
def decode_scattered(bits: int, narrow: bool) -> Any:
    """As `decode_runs`, where input i is of group `index[i]` and neighbours rarely share one.

    `(words, index, zeros, scales, half, inputs, out)`. `narrow` scales were stored in 16 bits,
    which leaves the low bits of a float32 to the zero point: gathering both for each input is most
    of the work. `half` rounds values to binary16 first.
    """
    to_bytes, width = spread(bits), SCATTERED * bits // 32 + PAD

    def rows_of(
        words: Any, index: Any, zeros: Any, scales: Any, half: Any, inputs: Any, out: Any
    ) -> None:
        tile = np.empty((COLUMNS, width), np.uint32)
        zero_tile = np.empty((COLUMNS, SCATTERED + PAD), np.float32)
        scale_tile = np.empty((COLUMNS, SCATTERED + PAD), np.float32)
        streams, both = tile.view(np.uint8), scale_tile.view(np.uint32)
        codes = np.empty(SCATTERED, np.uint8)
        rows = zeros.shape[1]
        grid = pair(zeros, scales) if narrow else scales.view(np.uint32)
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
                        scale_pairs(part, both[lane], half, here)
                    else:
                        scale_each(part, zero_tile[lane], scale_tile[lane], half, here)

    return rows_of


@variants
def decode_rows(bits: int, way: str) -> Any:
    """As `decode_runs`, from streams that lie as rows.

    `(streams, starts, zeros, scales, inputs, out)`: `streams` is uint8 `[rows, bytes]`, `zeros` and
    `scales` are float32 `[rows, runs]`, of any width from there on.
    """
    to_bytes, decode = spread(bits), RUNS[way]

    def rows_of(streams: Any, starts: Any, zeros: Any, scales: Any, inputs: Any, out: Any) -> None:
        codes = np.empty(-(-inputs // 32) * 32, np.uint8)
        runs = starts.shape[0] - 1
        for row in range(streams.shape[0]):
            to_bytes(streams[row], codes)
            decode(codes, 0, starts, 0, runs, zeros[row], scales[row], out, row * inputs)

    return rows_of


@jit
def _turn(words: Any, first: Any, last: Any, column: Any, tile: Any) -> None:
    """Words `[first, last)` of the columns that `tile` has rows for, each column to a row."""
    columns = min(tile.shape[0], words.shape[1] - column)
    whole = columns - columns % LANES
    blocks = last - (last - first) % LANES
    pairs = column % (2 * COLUMNS) == 0
    for row in range(first, blocks, LANES):
        for lane in range(0, whole, LANES):
            transpose8(words, row, column + lane, tile, lane, row - first)
        if pairs:
            for ahead in range(row, row + LANES):
                prefetch(words, ahead, column + 2 * COLUMNS)
                prefetch(words, ahead, column + 3 * COLUMNS)
    for row in range(first, last):
        for lane in range(whole if row < blocks else 0, columns):
            tile[lane, row - first] = words[row, column + lane]


@jit
def _turn_rows(grid: Any, rows: Any, column: Any, tile: Any) -> None:
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
def _turn_nibbles(words: Any, first: Any, last: Any, column: Any, planes: Any, tile: Any) -> None:
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
