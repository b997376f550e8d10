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

from anamnesis.kernels.types import Array

COLUMNS = 16  # a tile's output rows: one cache line of words
NIBBLE_COLUMNS = 64  # and of nibbles: eight words of eight
SCATTERED = 4096  # inputs a tile covers when each has a scale and a zero of its own
# Rows of a tile are a power of two apart but for this: their words would share cache sets.
_PAD = 16


def block_inputs(bits: int, nibbles: bool) -> int:
    """Inputs that a tile covers: a multiple of 64 that keeps tile and codes in cache."""
    return 4096 if nibbles or bits > 4 else 8192


def runs_of(index: Array, block: int) -> tuple[Any, Any]:
    """Runs of inputs of one group, cut at multiples of `block`.

    Returns `starts`, int64 `[runs + 1]` with the number of inputs at its end, and the group of
    each run; `index` is the group of each input.
    """
    # Where the group changes, and where a tile ends.
    cuts = np.flatnonzero(np.diff(index)) + 1
    starts = np.unique(np.concatenate([cuts, np.arange(0, index.size, block), [index.size]]))
    return starts.astype(np.int64), index[starts[:-1]]


def room_for_runs(bits: int, nibbles: bool, runs: int) -> tuple[Any, Any, Any]:
    """Room for `decode_runs`: a tile of words, and of zero points and scales of `runs`."""
    columns = NIBBLE_COLUMNS if nibbles else COLUMNS
    width = block_inputs(bits, nibbles) * bits // 32 + _PAD
    # Zeros and scales of a run side by side in a row of the tile.
    tiles = np.empty((2, columns, runs), np.float32)
    return np.empty((columns, width), np.uint32), tiles[0], tiles[1]


def room_for_scattered(bits: int, narrow: bool, scales: Array) -> tuple[Any, Any, Any, Any]:
    """Room for `decode_scattered`: tiles of words, zero points and scales, and a word a scale.

    The words of scales that are not `narrow` are the scales themselves.
    """
    tiles = np.empty((2, COLUMNS, SCATTERED + _PAD), np.float32)
    words = np.empty((COLUMNS, SCATTERED * bits // 32 + _PAD), np.uint32)
    pairs = np.empty(scales.shape, np.uint32) if narrow else scales.view(np.uint32)
    return words, tiles[0], tiles[1], pairs
