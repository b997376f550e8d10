"""Bodies of `kernels/gguf_iq2.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._lookup import (
    halves,
    load_numbers,
    load_u32,
    load_u64,
    look_up,
    table_for,
    words,
)
from anamnesis.kernels.bodies._vector import load_half
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.gguf_iq2 import MAGNITUDES
from anamnesis.kernels.types import Array, Bytes, Integer

u8, u64 = np.uint8, np.uint64
_QUARTERS = np.zeros(16, np.float32)
_QUARTERS[0:3] = _QUARTERS[8:11] = MAGNITUDES / 4
_QUARTERS[4:7] = _QUARTERS[12:15] = -MAGNITUDES / 4


@inline
def _scale(d: np.float32, bits: Integer) -> Any:
    return d * (np.float32(0.5) + np.float32(np.int32(bits)))


@inline
# The low half is for the first 16 elements of a run, the high half for the others.
def _two_scales(d: np.float32, bits: np.uint8) -> Any:
    return halves(_scale(d, bits & u8(15)), _scale(d, bits >> u8(4)))


@jit
def iq2_xxs(data: Bytes, grid: Array, signs: Array, out: Array) -> None:
    """IQ2_XXS: d f16, eight times points u8[4] and a u32 of signs and scale."""
    quarters = load_numbers(_QUARTERS, 0)
    for block in range(data.shape[0] // 66):
        d = load_half(data, block * 66)
        for run in range(8):
            at = block * 66 + 2 + 8 * run
            points, rest = load_u32(data, at), load_u32(data, at + 4)
            # rest: four times seven bits of signs, then four bits of scale.
            table = table_for(out, quarters * _scale(d, rest >> u32(28)))
            for pair in range(2):
                # points: bits 8 k to 8 k + 7 are point k; rest: bits 7 k to 7 k + 6 its signs.
                point, sign = u32(points >> u32(16 * pair)), u32(rest >> u32(14 * pair))
                low = grid[point & u32(255)] | signs[sign & u32(127)]
                high = grid[point >> u32(8) & u32(255)] | signs[sign >> u32(7) & u32(127)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))


@jit
def iq2_xs(data: Bytes, grid: Array, signs: Array, out: Array) -> None:
    """IQ2_XS: d f16, qs u16[32], scales u8[8]."""
    quarters = load_numbers(_QUARTERS, 0)
    for block in range(data.shape[0] // 74):
        at = block * 74
        d = load_half(data, at)
        for run in range(8):
            table = table_for(out, quarters * _two_scales(d, data[at + 66 + run]))
            # Four words of 16 bits: bits 0-8 the point, bits 9-15 which even byte of signs.
            qs = load_u64(data, at + 2 + 8 * run)
            for pair in range(2):
                # Nine bits of point, seven of signs.
                low = grid[qs & u64(511)] | signs[qs >> u64(9) & u64(127)]
                high = grid[qs >> u64(16) & u64(511)] | signs[qs >> u64(25) & u64(127)]
                # Bit 3 of a code takes the second half of the table, that of the second scale.
                codes = words(low, high) | (8 * pair)
                look_up(out, block * 256 + 32 * run + 16 * pair, table, codes)
                qs >>= u64(32)


@jit
def iq2_s(data: Bytes, grid: Array, signs: Array, out: Array) -> None:
    """IQ2_S: d f16, qs u8[32], signs u8[32], qh u8[8], scales u8[8]."""
    quarters = load_numbers(_QUARTERS, 0)
    for block in range(data.shape[0] // 82):
        at = block * 82
        d = load_half(data, at)
        for run in range(8):
            table = table_for(out, quarters * _two_scales(d, data[at + 74 + run]))
            qs, sign = load_u32(data, at + 2 + 4 * run), load_u32(data, at + 34 + 4 * run)
            # Bits 2 k, 2 k + 1 of qh are bits 8 and 9 of point k; a byte of signs has one bit an
            # element.
            qh = u32(u32(data[at + 66 + run]) << u32(8))
            for pair in range(2):
                # Two bits of qh are bits 8 and 9 of a point.
                low = grid[qs & u32(255) | qh & u32(0x300)] | signs[sign & u32(255)]
                high = grid[qs >> u32(8) & u32(255) | qh >> u32(2) & u32(0x300)]
                high |= signs[sign >> u32(8) & u32(255)]
                codes = words(low, high) | (8 * pair)
                look_up(out, block * 256 + 32 * run + 16 * pair, table, codes)
                qs, sign, qh = u32(qs >> u32(16)), u32(sign >> u32(16)), u32(qh >> u32(4))
