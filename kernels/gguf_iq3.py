"""GGUF's IQ3 types: four magnitudes at a time from a codebook, each with a sign.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq3_xxs`, `block_iq3_s`, the grids,
`ksigns_iq2xs`) and ggml/src/ggml-quants.c (`dequantize_row_iq3_*`).

| type | elements, bytes | layout |
|---|---|---|
| IQ3_XXS | 256, 98 | d f16; points u8[64]; u32[8]: 4 * 7 bits of signs, 4 bits of scale |
| IQ3_S | 256, 110 | d f16; qs u8[64]; qh u8[8]; signs u8[32]; scales u8[4] |

A bit of `qh` is bit 8 of a point's index.
Seven bits of signs choose a byte of signs with an even number of ones. A byte of `scales` holds
the scales of two runs of 32, the low half first. The value is `d * (0.5 + scale) * 0.5 * magnitude`
(IQ3_XXS) or `d * (1 + 2 * scale) * magnitude` (IQ3_S), the products exact in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._grids import ALL_BYTES, bit_words, point_words, read
from anamnesis.kernels._jit import inline, jit
from anamnesis.kernels._lookup import load_numbers, load_u32, load_u64, look_up, table_for, words
from anamnesis.kernels._vector import load_half, run_blocks
from anamnesis.kernels.bits import u32

u64 = np.uint64

# Codes: bits 0-2 a magnitude, bit 3 the sign.
_XXS, _XXS_MAGNITUDES = point_words("iq3xxs_grid")
_S, _S_MAGNITUDES = point_words("iq3s_grid")
_SIGNS = bit_words(ALL_BYTES, 8)
_EVEN_SIGNS = bit_words(read("ksigns_iq2xs"), 8)
_XXS_HALVES = np.concatenate([_XXS_MAGNITUDES, -_XXS_MAGNITUDES]) / np.float32(2)
_S_VALUES = np.concatenate([_S_MAGNITUDES, -_S_MAGNITUDES])


@inline
def _eight(grid: Any, first: Any, second: Any) -> Any:
    return u64(grid[first]) | u64(grid[second]) << u64(32)


@jit
def _iq3_xxs(data: Any, grid: Any, signs: Any, out: Any) -> None:
    halved = load_numbers(_XXS_HALVES, 0)
    for block in range(data.shape[0] // 98):
        at = block * 98
        d = load_half(data, at)
        for run in range(8):
            qs, rest = load_u64(data, at + 2 + 8 * run), load_u32(data, at + 66 + 4 * run)
            scale = d * (np.float32(0.5) + np.float32(np.int32(rest >> u32(28))))
            table = table_for(out, halved * scale)
            for pair in range(2):
                low = _eight(grid, qs & u64(255), qs >> u64(8) & u64(255))
                high = _eight(grid, qs >> u64(16) & u64(255), qs >> u64(24) & u64(255))
                low |= signs[rest & u32(127)]
                high |= signs[rest >> u32(7) & u32(127)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))
                qs, rest = qs >> u64(32), u32(rest >> u32(14))


@jit
def _iq3_s(data: Any, grid: Any, signs: Any, out: Any) -> None:
    values = load_numbers(_S_VALUES, 0)
    for block in range(data.shape[0] // 110):
        at = block * 110
        d = load_half(data, at)
        scales = load_u32(data, at + 106)
        for run in range(8):
            scale = d * np.float32(np.int32(1 + 2 * (scales >> u32(4 * run) & u32(15))))
            table = table_for(out, values * scale)
            qs, sign = load_u64(data, at + 2 + 8 * run), load_u32(data, at + 74 + 4 * run)
            qh = u64(data[at + 66 + run]) << u64(8)
            for pair in range(2):
                first = qs & u64(255) | qh & u64(256)
                second = qs >> u64(8) & u64(255) | qh >> u64(1) & u64(256)
                third = qs >> u64(16) & u64(255) | qh >> u64(2) & u64(256)
                fourth = qs >> u64(24) & u64(255) | qh >> u64(3) & u64(256)
                low = _eight(grid, first, second) | signs[sign & u32(255)]
                high = _eight(grid, third, fourth) | signs[sign >> u32(8) & u32(255)]
                look_up(out, block * 256 + 32 * run + 16 * pair, table, words(low, high))
                qs, sign, qh = qs >> u64(32), u32(sign >> u32(16)), qh >> u64(4)


def _run(kernel: Any, grid: Any, signs: Any, payload: Any, block_bytes: int, out: Any) -> None:
    run_blocks(lambda data, out: kernel(data, grid, signs, out), payload, block_bytes, 256, out)


def decode_iq3_xxs(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ3_XXS: 256 points, one scale for 32 elements."""
    _run(_iq3_xxs, _XXS, _EVEN_SIGNS, blocks["payload"], 98, out)


def decode_iq3_s(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ3_S: 512 points, any signs, one scale for 32 elements."""
    _run(_iq3_s, _S, _SIGNS, blocks["payload"], 110, out)
