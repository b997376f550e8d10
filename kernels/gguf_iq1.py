"""GGUF's IQ1 types: eight of -1, 0, 1 at a time from a codebook, all moved by an eighth.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq1_s`, `block_iq1_m`, `iq1s_grid`,
`IQ1S_DELTA`) and ggml/src/ggml-quants.c (`dequantize_row_iq1_s`, `_iq1_m`).

| type | elements, bytes | layout |
|---|---|---|
| IQ1_S | 256, 50 | d f16; qs u8[32]; qh u16[8]: 4 * 3 bits, 3 bits of scale, the shift's sign |
| IQ1_M | 256, 56 | qs u8[32]; qh u8[16]: 2 * (3 bits, the shift's sign); scales u16[4] |

An item of `qh` belongs to four points (IQ1_S) or two (IQ1_M); its three bits are bits 8-10 of a
point's index. A word of IQ1_M's `scales` holds the scales of four runs of 16, three bits each; the
top four bits of the four words together are `d` as f16.
The value is `d * (2 * scale + 1) * (point + shift)`, the products exact in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._grids import point_words
from anamnesis.kernels._jit import inline, jit
from anamnesis.kernels._lookup import (
    halves,
    load_numbers,
    load_u32,
    load_u64,
    look_up,
    table_for,
    words,
)
from anamnesis.kernels._vector import clean_nan, load_half, load_u16, run_blocks
from anamnesis.kernels.bits import f16_bits_to_f32, u32

u64 = np.uint64

# Codes: bits 0-1 one of -1, 0, 1, bit 2 the shift's sign, bit 3 the second scale of a table.
_GRID, _POINTS = point_words("iq1s_grid")
_HALF = np.zeros((2, 4), np.float32)
_HALF[:, :3] = _POINTS + np.array([[0.125], [-0.125]], np.float32)
_SHIFTED = np.tile(_HALF.reshape(-1), 3)  # a table can start at each shift
_EIGHT = np.uint64(0x0101010101010101)


@inline
def _scale(d: Any, bits: Any) -> Any:
    return d * np.float32(np.int32(2 * (bits & u32(7)) + 1))


@jit
def _iq1_s(data: Any, grid: Any, out: Any) -> None:
    for block in range(data.shape[0] // 50):
        at = block * 50
        d = load_half(data, at)
        for run in range(8):
            qs, qh = load_u32(data, at + 2 + 4 * run), load_u16(data, at + 34 + 2 * run)
            shifted = load_numbers(_SHIFTED, 4 * np.int64(qh >> u32(15)))
            table = table_for(out, shifted * _scale(d, qh >> u32(12)))
            above = u32(qh << u32(8))
            for pair in range(2):
                low = grid[qs & u32(255) | above & u32(0x700)]
                high = grid[qs >> u32(8) & u32(255) | above >> u32(3) & u32(0x700)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))
                qs, above = u32(qs >> u32(16)), u32(above >> u32(6))


@jit
def _iq1_m(data: Any, grid: Any, out: Any) -> None:
    shifted = load_numbers(_SHIFTED, 0)
    for block in range(data.shape[0] // 56):
        at = block * 56
        scales = load_u64(data, at + 48)
        half = u32(0)
        for word in range(4):
            half |= u32(scales >> u64(16 * word + 12) & u64(15)) << u32(4 * word)
        d = clean_nan(f16_bits_to_f32(half))
        for run in range(8):
            bits = u32(scales >> u64(16 * (run // 2) + 6 * (run % 2)))
            table = table_for(out, shifted * halves(_scale(d, bits), _scale(d, bits >> u32(3))))
            qs, qh = load_u32(data, at + 4 * run), load_u16(data, at + 32 + 2 * run)
            for pair in range(2):
                low = grid[qs & u32(255) | qh << u32(8) & u32(0x700)]
                high = grid[qs >> u32(8) & u32(255) | qh << u32(4) & u32(0x700)]
                low |= _EIGHT * u64(qh >> u32(1) & u32(4))
                high |= _EIGHT * u64(qh >> u32(5) & u32(4))
                codes = words(low, high) | (8 * pair)
                look_up(out, block * 256 + 32 * run + 16 * pair, table, codes)
                qs, qh = u32(qs >> u32(16)), u32(qh >> u32(8))


def _run(kernel: Any, payload: Any, block_bytes: int, out: Any) -> None:
    run_blocks(lambda data, out: kernel(data, _GRID, out), payload, block_bytes, 256, out)


def decode_iq1_s(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ1_S: 2048 points, one scale and one shift for 32 elements."""
    _run(_iq1_s, blocks["payload"], 50, out)


def decode_iq1_m(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ1_M: the same points, one scale for 16 elements and one shift for eight."""
    _run(_iq1_m, blocks["payload"], 56, out)
