"""GGUF's IQ1 types: points of eight -1, 0 or 1, moved by an eighth up or down.

| type | elements of a scale | shifts | groups count as zeros below |
|---|---|---|---|
| IQ1_S | 32 | one, of 32 | 1e-12 |
| IQ1_M | 16 | two, of eight each | 1e-7 |

Elements in order of size are cut in three at the best of all places, under every shift. Weights are
those of IQ3 (`encode_gguf_iq3`); IQ1_S needs an importance matrix. Elements of one size stay in
order, as a stable `qsort` leaves them (glibc's). Layouts are in `gguf_iq1`. Source: ggml
`src/ggml-quants.c`, `quantize_row_iq1_s_impl`, `quantize_row_iq1_m_impl`.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._ends_ggml import blocks_of, halves
from anamnesis.kernels._ggml import of_points
from anamnesis.kernels.ends import Ends, between
from anamnesis.kernels.readback import Facts, Parts
from anamnesis.kernels.types import Array, Floats

encode_iq1_s = of_points("gguf-iq1-s", "iq1s_grid", 2, body="encode_gguf_iq1:iq1_s")
encode_iq1_m = of_points("gguf-iq1-m", "iq1s_grid", 2, body="encode_gguf_iq1:iq1_m")


def ends_iq1_s(parts: Parts, facts: Facts) -> Ends:
    """Groups of 32."""
    blocks = blocks_of(parts, facts)
    words = np.ascontiguousarray(blocks[:, 34:50]).view("<u2")
    # qh: bits 12-14 the scale, bit 15 the sign of the shift.
    return _moved(halves(blocks[:, :2]) * _odd(words >> 12 & 7), words >> 15, 32)


def ends_iq1_m(parts: Parts, facts: Facts) -> Ends:
    """Groups of eight, of which two have a scale."""
    blocks = blocks_of(parts, facts)
    words = np.ascontiguousarray(blocks[:, 48:56]).view("<u2")
    # Bits 12-15 of four words are the nibbles of d.
    bits = words[:, 0] >> 12 | words[:, 1] >> 12 << 4
    bits |= words[:, 2] >> 12 << 8 | words[:, 3] >> 12 << 12
    # Bits 3 k to 3 k + 2 of word i are the scale of run 4 i + k.
    scales = (words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
    # Bits 3 and 7 of a byte of qh: the signs of two shifts.
    shifts = blocks[:, 32:48, None] >> np.array([3, 7], np.uint8) & 1
    sizes = np.repeat(halves(bits)[:, None] * _odd(scales), 2, axis=1)
    return _moved(sizes, shifts.reshape(len(blocks), 32), 8)


def _odd(scales: Array) -> Array:
    return (2 * scales.astype(np.int32) + 1).astype(np.float32)


def _moved(scales: Floats, down: Array, size: int) -> Ends:
    """Ends of -1, 0 and 1, half a step beyond them, moved by an eighth."""
    shift = np.where(down != 0, np.float32(-0.125), np.float32(0.125))
    first, last = scales * (shift - np.float32(1.5)), scales * (shift + np.float32(1.5))
    return between(first, last, 256, size)
