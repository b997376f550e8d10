"""Bodies of `kernels/gguf_iq1.py`, which has the layout."""

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
from anamnesis.kernels.bodies._vector import clean_nan, load_half, load_u16
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32
from anamnesis.kernels.gguf_iq1 import POINTS
from anamnesis.kernels.types import Array, Bytes

u64 = np.uint64
_HALF = np.zeros((2, 4), np.float32)
_HALF[:, :3] = POINTS + np.array([[0.125], [-0.125]], np.float32)
_SHIFTED = np.tile(_HALF.reshape(-1), 3)  # a table can start at each shift
_EIGHT = np.uint64(0x0101010101010101)


@inline
# Layouts: llama.cpp ggml-common.h; three bits of scale s stand for 2 s + 1.
def _scale(d: np.float32, bits: np.uint32) -> Any:
    return d * np.float32(np.int32(2 * (bits & u32(7)) + 1))


@jit
def iq1_s(data: Bytes, grid: Array, out: Array) -> None:
    """IQ1_S: d f16, qs u8[32], qh u16[8]; `grid` has eight numbers, a byte each, for a point."""
    for block in range(data.shape[0] // 50):
        at = block * 50
        d = load_half(data, at)
        for run in range(8):
            qs, qh = load_u32(data, at + 2 + 4 * run), load_u16(data, at + 34 + 2 * run)
            # qh: bits 8 to 10 of four points, then three bits of scale and the shift's sign.
            shifted = load_numbers(_SHIFTED, 4 * np.int64(qh >> u32(15)))
            table = table_for(out, shifted * _scale(d, qh >> u32(12)))
            above = u32(qh << u32(8))
            for pair in range(2):
                # A point: bits 0-7 are a byte of qs, bits 8-10 three bits of qh, moved there by
                # `above`.
                low = grid[qs & u32(255) | above & u32(0x700)]
                high = grid[qs >> u32(8) & u32(255) | above >> u32(3) & u32(0x700)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))
                qs, above = u32(qs >> u32(16)), u32(above >> u32(6))


@jit
def iq1_m(data: Bytes, grid: Array, out: Array) -> None:
    """IQ1_M: qs u8[32], qh u8[16], scales u16[4]; `grid` as for `iq1_s`."""
    shifted = load_numbers(_SHIFTED, 0)
    for block in range(data.shape[0] // 56):
        at = block * 56
        scales = load_u64(data, at + 48)
        half = u32(0)
        # The top four bits of each word of scales are a nibble of d.
        for word in range(4):
            half |= u32(scales >> u64(16 * word + 12) & u64(15)) << u32(4 * word)
        d = clean_nan(f16_bits_to_f32(half))
        for run in range(8):
            # Word k of scales: bits 0-2, 3-5 for the halves of run 2 k, 6-8, 9-11 for those of run
            # 2 k + 1.
            bits = u32(scales >> u64(16 * (run // 2) + 6 * (run % 2)))
            table = table_for(out, shifted * halves(_scale(d, bits), _scale(d, bits >> u32(3))))
            qs, qh = load_u32(data, at + 4 * run), load_u16(data, at + 32 + 2 * run)
            for pair in range(2):
                # Half a byte of qh a point: its bits 8 to 10, and the shift's sign.
                low = grid[qs & u32(255) | qh << u32(8) & u32(0x700)]
                high = grid[qs >> u32(8) & u32(255) | qh << u32(4) & u32(0x700)]
                # Bit 3 (or 7) of the byte of qh becomes bit 2 of all eight codes: the half of the
                # table.
                low |= _EIGHT * u64(qh >> u32(1) & u32(4))
                high |= _EIGHT * u64(qh >> u32(5) & u32(4))
                codes = words(low, high) | (8 * pair)
                look_up(out, block * 256 + 32 * run + 16 * pair, table, codes)
                qs, qh = u32(qs >> u32(16)), u32(qh >> u32(8))
