"""Bodies of `kernels/gguf_iq4.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.bodies._lookup import load_numbers, load_u32, look_up, table_for
from anamnesis.kernels.bodies._vector import load16, load_half, load_u16
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes

_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


# Layouts: llama.cpp ggml/src/ggml-common.h (`block_iq4_nl`, `block_iq4_xs`).
@jit
def iq4_nl(data: Bytes, out: Array) -> None:
    """IQ4_NL: d f16, qs[16]."""
    values = load_numbers(_VALUES, 0)
    for block in range(data.shape[0] // 18):
        at = block * 18
        table = table_for(out, values * load_half(data, at))
        qs = load16(data, at + 2)
        # Byte i has element i in its low half and 16 + i in its high one.
        look_up(out, block * 32, table, qs)
        look_up(out, block * 32 + 16, table, qs >> 4)


@jit
def iq4_xs(data: Bytes, out: Array) -> None:
    """IQ4_XS: d f16, scales_h u16, scales_l[4], qs[128]."""
    values = load_numbers(_VALUES, 0)
    for block in range(data.shape[0] // 136):
        at = block * 136
        d = load_half(data, at)
        scales_h, scales_l = load_u16(data, at + 2), load_u32(data, at + 4)
        for run in range(8):
            # Bits 0 to 3 of a scale are in scales_l, bits 4 and 5 in scales_h.
            low = u32(scales_l >> u32(4 * run)) & u32(15)
            high = u32(scales_h >> u32(2 * run)) & u32(3)
            scale = d * np.float32(np.int32(low | high << u32(4)) - np.int32(32))
            table = table_for(out, values * scale)
            qs = load16(data, at + 8 + 16 * run)
            # Byte i has element i in its low half and 16 + i in its high one.
            look_up(out, block * 256 + 32 * run, table, qs)
            look_up(out, block * 256 + 32 * run + 16, table, qs >> 4)
