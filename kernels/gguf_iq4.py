"""GGUF's IQ4 types: four-bit codes into a fixed table of sixteen values.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq4_nl`, `block_iq4_xs`,
`kvalues_iq4nl`) and ggml/src/ggml-quants.c (`dequantize_row_iq4_nl`, `_iq4_xs`).

| type | elements, bytes | layout |
|---|---|---|
| IQ4_NL | 32, 18 | d f16; qs u8[16] |
| IQ4_XS | 256, 136 | d f16; scales_h u16; scales_l u8[4]; qs u8[128] |

Sixteen bytes of `qs` hold 32 elements: first the low halves, then the high halves. An IQ4_XS block
has eight runs of 32, each with a scale of six bits: four in `scales_l`, two in `scales_h`.
Every product has at most 24 significant bits, so float32 holds it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._jit import jit
from anamnesis.kernels._lookup import load_numbers, load_u32, look_up, table_for
from anamnesis.kernels._vector import load16, load_half, load_u16, run_blocks
from anamnesis.kernels.bits import u32

_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


@jit
def _iq4_nl(data: Any, out: Any) -> None:
    values = load_numbers(_VALUES, 0)
    for block in range(data.shape[0] // 18):
        at = block * 18
        table = table_for(out, values * load_half(data, at))
        qs = load16(data, at + 2)
        look_up(out, block * 32, table, qs)
        look_up(out, block * 32 + 16, table, qs >> 4)


@jit
def _iq4_xs(data: Any, out: Any) -> None:
    values = load_numbers(_VALUES, 0)
    for block in range(data.shape[0] // 136):
        at = block * 136
        d = load_half(data, at)
        scales_h, scales_l = load_u16(data, at + 2), load_u32(data, at + 4)
        for run in range(8):
            low = u32(scales_l >> u32(4 * run)) & u32(15)
            high = u32(scales_h >> u32(2 * run)) & u32(3)
            scale = d * np.float32(np.int32(low | high << u32(4)) - np.int32(32))
            table = table_for(out, values * scale)
            qs = load16(data, at + 8 + 16 * run)
            look_up(out, block * 256 + 32 * run, table, qs)
            look_up(out, block * 256 + 32 * run + 16, table, qs >> 4)


def decode_iq4_nl(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ4_NL: `d * value[code]`."""
    run_blocks(_iq4_nl, blocks["payload"], 18, 32, out)


def decode_iq4_xs(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ4_XS: `d * (scale - 32) * value[code]`."""
    run_blocks(_iq4_xs, blocks["payload"], 136, 256, out)
