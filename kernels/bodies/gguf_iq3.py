"""Bodies of `kernels/gguf_iq3.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._lookup import (
    load_numbers,
    load_u32,
    load_u64,
    look_up,
    table_for,
    words,
)
from anamnesis.kernels.bodies._vector import load_half
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.gguf_iq3 import S_MAGNITUDES, XXS_MAGNITUDES
from anamnesis.kernels.types import Array, Bytes, Words

u64 = np.uint64
_XXS_HALVES = (np.concatenate([XXS_MAGNITUDES, -XXS_MAGNITUDES]) / 2).astype(np.float32)
_S_VALUES = np.concatenate([S_MAGNITUDES, -S_MAGNITUDES])


@inline
# Two points of four elements: a byte an element, the first lowest.
def _eight(grid: Array, first: np.uint64, second: np.uint64) -> Any:
    return u64(grid[first]) | u64(grid[second]) << u64(32)


@jit
def iq3_xxs(data: Bytes, grid: Words, signs: Array, out: Array) -> None:
    """IQ3_XXS: d f16, points u8[64], u32[8] of signs and scale."""
    halved = load_numbers(_XXS_HALVES, 0)
    for block in range(data.shape[0] // 98):
        at = block * 98
        d = load_half(data, at)
        for run in range(8):
            qs, rest = load_u64(data, at + 2 + 8 * run), load_u32(data, at + 66 + 4 * run)
            # rest: four times seven bits of signs, then four bits of scale.
            scale = d * (np.float32(0.5) + np.float32(np.int32(rest >> u32(28))))
            table = table_for(out, halved * scale)
            for pair in range(2):
                # qs: bits 8 k to 8 k + 7 are point k of a run, eight of them; rest: bits 7 k to 7 k
                # + 6 are the signs of points 2 k and 2 k + 1.
                low = _eight(grid, qs & u64(255), qs >> u64(8) & u64(255))
                high = _eight(grid, qs >> u64(16) & u64(255), qs >> u64(24) & u64(255))
                low |= signs[rest & u32(127)]
                high |= signs[rest >> u32(7) & u32(127)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))
                qs, rest = qs >> u64(32), u32(rest >> u32(14))


@jit
def iq3_s(data: Bytes, grid: Words, signs: Array, out: Array) -> None:
    """IQ3_S: d f16, qs u8[64], qh u8[8], signs u8[32], scales u8[4]."""
    values = load_numbers(_S_VALUES, 0)
    for block in range(data.shape[0] // 110):
        at = block * 110
        d = load_half(data, at)
        scales = load_u32(data, at + 106)
        for run in range(8):
            # scales: nibble k of the word is run k, 2 s + 1.
            scale = d * np.float32(np.int32(1 + 2 * (scales >> u32(4 * run) & u32(15))))
            table = table_for(out, values * scale)
            # qs: bits 0-7 of eight points; signs: bit i of byte k is element 8 k + i.
            qs, sign = load_u64(data, at + 2 + 8 * run), load_u32(data, at + 74 + 4 * run)
            qh = u64(data[at + 66 + run]) << u64(8)
            for pair in range(2):
                # Bit i of qh is bit 8 of point i; a point has four elements.
                first = qs & u64(255) | qh & u64(256)
                second = qs >> u64(8) & u64(255) | qh >> u64(1) & u64(256)
                third = qs >> u64(16) & u64(255) | qh >> u64(2) & u64(256)
                fourth = qs >> u64(24) & u64(255) | qh >> u64(3) & u64(256)
                low = _eight(grid, first, second) | signs[sign & u32(255)]
                high = _eight(grid, third, fourth) | signs[sign >> u32(8) & u32(255)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))
                qs, sign, qh = qs >> u64(32), u32(sign >> u32(16)), qh >> u64(4)
