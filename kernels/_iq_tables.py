"""What ggml's encoders of codebooks look points up in: `iq2xs_init_impl` and `iq3xs_init_impl`.

A point is eight codes of two bits or four of three; its key has code i in the i-th of these fields.
`index[key]` is the number of a point that is in the grid. Of any other it is `-1 - at`, where
`neighbours[at]` says how many numbers follow: those of the points in the grid at the least `near`
distances from it, nearest first, and of equally near ones the lower number first.
Source: https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._grids import read
from anamnesis.kernels.types import Array, Bytes, Halves

# Distances that count, by grid: two, but one in IQ2_S, and three in IQ1 and IQ3_S.
_NEAR = {"iq1s_grid": 3, "iq2s_grid": 1, "iq3s_grid": 3}
_ROWS = 512  # keys at a time


class Tables(NamedTuple):
    """`codes` uint8 [points, 8 or 4], `index` int32 [keys], `neighbours` uint16."""

    codes: Bytes
    index: Any
    neighbours: Halves


@cache
def tables(name: str) -> Tables:
    """The tables of the grid `data/NAME.npy`."""
    grid = read(name)
    levels, numbers = np.unique(grid, return_inverse=True)
    codes = np.ascontiguousarray(numbers.reshape(grid.shape), np.uint8)
    width = codes.shape[1]
    # Eight codes of two bits, or four of three: the index of a point in the tables.
    bits = 16 // width if width == 8 else 3
    every = np.stack(np.meshgrid(*[np.arange(len(levels))] * width, indexing="ij"), -1)
    every = every.reshape(-1, width)[:, ::-1]  # keys ascend
    keys = (every << (bits * np.arange(width))).sum(1)
    index = np.zeros(int(keys[-1]) + 1, np.int32)
    lists: list[Any] = []
    at = 0
    for first in range(0, len(keys), _ROWS):
        distances = _distances(every[first : first + _ROWS], codes)
        for key, row in zip(keys[first : first + _ROWS], distances, strict=True):
            near = _nearest(row, _NEAR.get(name, 2))
            if row[near[0]] == 0:
                index[key] = near[0]
                continue
            index[key] = -1 - at
            lists += [[len(near)], near]
            at += 1 + len(near)
    return Tables(codes, index, np.concatenate(lists).astype(np.uint16))


def _distances(keys: Array, codes: Array) -> Array:
    """Squares of distances, int32 [keys, points]."""
    keys, codes = keys.astype(np.int32), codes.astype(np.int32)
    # Small integers: float32 has them all exactly, and BLAS multiplies them.
    products = keys.astype(np.float32) @ codes.astype(np.float32).T
    sums = (keys * keys).sum(1)[:, None] + (codes * codes).sum(1)
    return sums - 2 * products.astype(np.int32)


def _nearest(distances: Array, near: int) -> Array:
    """The points at the least `near` distances, in order."""
    there = np.flatnonzero(np.bincount(distances))
    chosen = np.flatnonzero(distances <= there[min(near, len(there)) - 1])
    return chosen[np.argsort(distances[chosen], kind="stable")]
