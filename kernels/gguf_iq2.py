"""GGUF's IQ2 types: eight magnitudes at a time from a codebook, each with a sign.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq2_xxs`, `block_iq2_xs`,
`block_iq2_s`, the grids, `ksigns_iq2xs`) and ggml/src/ggml-quants.c (`dequantize_row_iq2_*`).

| type | elements, bytes | layout |
|---|---|---|
| IQ2_XXS | 256, 66 | d f16; 8 * (points u8[4], u32: 4 * 7 bits of signs, 4 bits of scale) |
| IQ2_XS | 256, 74 | d f16; qs u16[32]: 9 bits of point, 7 bits of signs; scales u8[8] |
| IQ2_S | 256, 82 | d f16; qs u8[32]; signs u8[32]; qh u8[8]: 4 * 2 bits; scales u8[8] |

The two bits of `qh` are bits 8 and 9 of a point's index.
Seven bits of signs choose a byte of signs with an even number of ones. A byte of `scales` holds
two scales, the low half first, each for 16 elements. The value is
`d * (0.5 + scale) * 0.25 * magnitude`, the products exact in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._grids import ALL_BYTES, bit_words, point_words, read
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
from anamnesis.kernels._vector import load_half, run_blocks
from anamnesis.kernels.bits import u32

u8, u64 = np.uint8, np.uint64

# Codes: bits 0-1 a magnitude, bit 2 the sign, bit 3 the second scale of a table.
_XXS, _MAGNITUDES = point_words("iq2xxs_grid")
_XS, _ = point_words("iq2xs_grid")
_S, _ = point_words("iq2s_grid")
_SIGNS = bit_words(ALL_BYTES, 4)
_EVEN_SIGNS = bit_words(read("ksigns_iq2xs"), 4)
_QUARTERS = np.zeros(16, np.float32)
_QUARTERS[0:3] = _QUARTERS[8:11] = _MAGNITUDES / 4
_QUARTERS[4:7] = _QUARTERS[12:15] = -_MAGNITUDES / 4


@inline
def _scale(d: Any, bits: Any) -> Any:
    return d * (np.float32(0.5) + np.float32(np.int32(bits)))


@inline
def _two_scales(d: Any, bits: Any) -> Any:
    return halves(_scale(d, bits & u8(15)), _scale(d, bits >> u8(4)))


@jit
def _iq2_xxs(data: Any, grid: Any, signs: Any, out: Any) -> None:
    quarters = load_numbers(_QUARTERS, 0)
    for block in range(data.shape[0] // 66):
        d = load_half(data, block * 66)
        for run in range(8):
            at = block * 66 + 2 + 8 * run
            points, rest = load_u32(data, at), load_u32(data, at + 4)
            table = table_for(out, quarters * _scale(d, rest >> u32(28)))
            for pair in range(2):
                point, sign = u32(points >> u32(16 * pair)), u32(rest >> u32(14 * pair))
                low = grid[point & u32(255)] | signs[sign & u32(127)]
                high = grid[point >> u32(8) & u32(255)] | signs[sign >> u32(7) & u32(127)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))


@jit
def _iq2_xs(data: Any, grid: Any, signs: Any, out: Any) -> None:
    quarters = load_numbers(_QUARTERS, 0)
    for block in range(data.shape[0] // 74):
        at = block * 74
        d = load_half(data, at)
        for run in range(8):
            table = table_for(out, quarters * _two_scales(d, data[at + 66 + run]))
            qs = load_u64(data, at + 2 + 8 * run)
            for pair in range(2):
                low = grid[qs & u64(511)] | signs[qs >> u64(9) & u64(127)]
                high = grid[qs >> u64(16) & u64(511)] | signs[qs >> u64(25) & u64(127)]
                codes = words(low, high) | (8 * pair)
                look_up(out, block * 256 + 32 * run + 16 * pair, table, codes)
                qs >>= u64(32)


@jit
def _iq2_s(data: Any, grid: Any, signs: Any, out: Any) -> None:
    quarters = load_numbers(_QUARTERS, 0)
    for block in range(data.shape[0] // 82):
        at = block * 82
        d = load_half(data, at)
        for run in range(8):
            table = table_for(out, quarters * _two_scales(d, data[at + 74 + run]))
            qs, sign = load_u32(data, at + 2 + 4 * run), load_u32(data, at + 34 + 4 * run)
            qh = u32(u32(data[at + 66 + run]) << u32(8))
            for pair in range(2):
                low = grid[qs & u32(255) | qh & u32(0x300)] | signs[sign & u32(255)]
                high = grid[qs >> u32(8) & u32(255) | qh >> u32(2) & u32(0x300)]
                high |= signs[sign >> u32(8) & u32(255)]
                codes = words(low, high) | (8 * pair)
                look_up(out, block * 256 + 32 * run + 16 * pair, table, codes)
                qs, sign, qh = u32(qs >> u32(16)), u32(sign >> u32(16)), u32(qh >> u32(4))


def _run(kernel: Any, grid: Any, signs: Any, payload: Any, block_bytes: int, out: Any) -> None:
    run_blocks(lambda data, out: kernel(data, grid, signs, out), payload, block_bytes, 256, out)


def decode_iq2_xxs(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ2_XXS: 256 points, one scale for 32 elements."""
    _run(_iq2_xxs, _XXS, _EVEN_SIGNS, blocks["payload"], 66, out)


def decode_iq2_xs(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ2_XS: 512 points, one scale for 16 elements."""
    _run(_iq2_xs, _XS, _EVEN_SIGNS, blocks["payload"], 74, out)


def decode_iq2_s(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ2_S: 1024 points, any signs, one scale for 16 elements."""
    _run(_iq2_s, _S, _SIGNS, blocks["payload"], 82, out)
