"""How far groups of GGUF's IQ1 to IQ3 types reach, from their blocks; `ends` says what that is.

The greatest number of a codebook, and half the step to it from the one before, times the scale of
its group. Layouts are in `gguf_iq1`, `gguf_iq2` and `gguf_iq3`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._grids import read
from anamnesis.kernels.types import Array, Bytes, Floats


class Reach(NamedTuple):
    """Ends of the groups of all blocks, `size` elements each."""

    size: int
    low: Floats
    high: Floats


# Of a type with signs: its grid, where its scales of four bits are (one in the upper half of every
# `step` bytes, or two a byte where that is 0), elements of a scale, and factors of 1 and the scale.
_SIGNED: dict[str, tuple[str, int, int, int, tuple[float, float]]] = {
    "iq2_s": ("iq2s_grid", 74, 0, 16, (0.125, 0.25)),
    "iq2_xs": ("iq2xs_grid", 66, 0, 16, (0.125, 0.25)),
    "iq2_xxs": ("iq2xxs_grid", 9, 8, 32, (0.125, 0.25)),
    "iq3_s": ("iq3s_grid", 106, 0, 32, (1.0, 2.0)),
    "iq3_xxs": ("iq3xxs_grid", 69, 4, 32, (0.25, 0.5)),
}


def reach(kind: str, blocks: Array) -> Reach:
    """The ends of every group of `uint8 [blocks, bytes]` of a type, in order."""
    if kind == "iq1_s":
        words = np.ascontiguousarray(blocks[:, 34:50]).view("<u2")
        d = _halves(blocks[:, :2])
        # qh: bits 12-14 the scale, bit 15 the sign of the shift.
        return _moved(d * _odd(words >> 12 & 7), words >> 15, 32)
    if kind == "iq1_m":
        words = np.ascontiguousarray(blocks[:, 48:56]).view("<u2")
        # Bits 12-15 of four words are the nibbles of d.
        bits = words[:, 0] >> 12 | words[:, 1] >> 12 << 4
        bits |= words[:, 2] >> 12 << 8 | words[:, 3] >> 12 << 12
        d = np.ascontiguousarray(bits).view("<f2").astype(np.float32)[:, None]
        # Bits 3 k to 3 k + 2 of word i are the scale of run 4 i + k.
        scales = (words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
        # Bits 3 and 7 of a byte of qh: the signs of two shifts.
        shifts = blocks[:, 32:48, None] >> np.array([3, 7], np.uint8) & 1
        sizes = np.repeat(d * _odd(scales), 2, axis=1)
        return _moved(sizes, shifts.reshape(len(blocks), 32), 8)
    grid, first, step, size, (one, more) = _SIGNED[kind]
    levels = np.unique(read(grid)).astype(np.float32)
    # Half a step beyond the last level.
    last = levels[-1] + (levels[-1] - levels[-2]) / np.float32(2)
    if step:
        # The upper half of the last byte of a run's word.
        scales = blocks[:, first::step][:, : 256 // size] >> 4
    else:
        # Two scales a byte, the low half first.
        held = blocks[:, first:, None] >> np.array([0, 4], np.uint8) & 15
        scales = held.reshape(len(blocks), -1)
    d = _halves(blocks[:, :2])
    ends = np.abs(d * (np.float32(one) + np.float32(more) * scales.astype(np.float32)) * last)
    return Reach(size, -ends.reshape(-1), ends.reshape(-1))


def _halves(data: Bytes) -> Any:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _odd(scales: Array) -> Any:
    return (2 * scales.astype(np.int32) + 1).astype(np.float32)


def _moved(scales: Floats, down: Array, size: int) -> Reach:
    """Ends of -1, 0 and 1, half a step beyond them, moved by an eighth."""
    shift = np.where(down != 0, np.float32(-0.125), np.float32(0.125))
    first = (scales * (shift - np.float32(1.5))).reshape(-1)
    last = (scales * (shift + np.float32(1.5))).reshape(-1)
    return Reach(size, np.minimum(first, last), np.maximum(first, last))
