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

from anamnesis.kernels import Window
from anamnesis.kernels._blocks import run_blocks
from anamnesis.kernels._grids import ALL_BYTES, bit_words, point_words, read
from anamnesis.kernels._native import Kernel, kernel
from anamnesis.kernels.types import Array, Bytes, Longs, Params, Views, Words

# Codes: bits 0-2 a magnitude, bit 3 the sign.
XXS, XXS_MAGNITUDES = point_words("iq3xxs_grid")
S, S_MAGNITUDES = point_words("iq3s_grid")
_SIGNS = bit_words(ALL_BYTES, 8)
_EVEN_SIGNS = bit_words(read("ksigns_iq2xs"), 8)
_iq3_s = kernel("gguf_iq3:iq3_s")
_iq3_xxs = kernel("gguf_iq3:iq3_xxs")


def _run(
    kernel: Kernel, grid: Words, signs: Longs, payload: Bytes, block_bytes: int, out: Array
) -> None:
    run_blocks(lambda data, out: kernel(data, grid, signs, out), payload, block_bytes, 256, out)


def decode_iq3_xxs(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """IQ3_XXS: 256 points, one scale for 32 elements."""
    _run(_iq3_xxs, XXS, _EVEN_SIGNS, blocks["payload"], 98, out)


def decode_iq3_s(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """IQ3_S: 512 points, any signs, one scale for 32 elements."""
    _run(_iq3_s, S, _SIGNS, blocks["payload"], 110, out)
