"""Scales and zero points of one matrix row of compressed-tensors, as float32.

A place `(per, lines, rows)` says which line of a grid a row is under: row r is under line
`r // per * lines + r % per // rows`. Nothing here is bounds-checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._codes import scale_each
from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline, jit, variants
from anamnesis.kernels.bodies._pairs import scale_pairs
from anamnesis.kernels.bodies._vector import clean_nan
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32
from anamnesis.kernels.ct import BF16, F32


@inline
def line_of(place: Any, row: Any) -> Any:
    """The line of a grid that a row is under."""
    per, lines, rows = place
    return row // per * lines + row % per // rows


@jit
def read_scale_line(raw: Any, kind: Any, line: Any, scales: Any) -> None:
    """Line `line` of a grid of bytes, to float32 with its NaNs made quiet."""
    groups = scales.shape[0]
    at = line * groups
    if kind == F32:
        wide = raw.view(np.uint32)
        for g in range(groups):
            scales[g] = clean_nan(as_f32(wide[at + g]))
    elif kind == BF16:
        narrow = raw.view(np.uint16)
        for g in range(groups):
            scales[g] = clean_nan(as_f32(u32(u32(narrow[at + g]) << u32(16))))
    else:
        halves = raw.view(np.uint16)
        for g in range(groups):
            scales[g] = clean_nan(f16_bits_to_f32(u32(halves[at + g])))


@jit
def read_zero_line(raw: Any, line: Any, zeros: Any) -> None:
    """Line `line` of a grid of int8, as it is."""
    groups = zeros.shape[0]
    for g in range(groups):
        zeros[g] = np.float32(np.int8(raw[line * groups + g]))


@jit
def unpack_zero_line(raw: Any, bits: Any, padded: Any, row: Any, zeros: Any) -> None:
    """Row `row` of codes packed in columns of 32-bit words `[words, groups]`: 0 to 2 ** bits - 1.

    A stream runs down each column; `padded` words hold whole codes only.
    """
    groups = zeros.shape[0]
    words = raw.view(np.uint32)
    mask = u32((1 << bits) - 1)
    if padded:
        each = 32 // bits
        at, shift = row // each * groups, u32(row % each * bits)
        for g in range(groups):
            zeros[g] = np.float32(np.int32(u32(u32(words[at + g] >> shift) & mask)))
        return
    at, begin = row * bits // 32 * groups, row * bits % 32
    shift, low = u32(begin), begin + bits <= 32
    if low:
        for g in range(groups):
            zeros[g] = np.float32(np.int32(u32(u32(words[at + g] >> shift) & mask)))
    else:
        rest = u32(32 - begin)
        for g in range(groups):
            both = u32(u32(words[at + g] >> shift) | u32(words[at + groups + g] << rest))
            zeros[g] = np.float32(np.int32(u32(both & mask)))


@variants
def spread_padded(bits: int) -> Any:
    """`(stream, codes)`: codes of words that hold `32 // bits` of 3, 5, 6 or 7 bits, as bytes.

    `codes` has room for all codes of all words.
    """
    each, mask = 32 // bits, u32((1 << bits) - 1)
    if bits == 7:

        def to_bytes(stream: Any, codes: Any) -> None:
            words, fours = stream.view(np.uint32), codes.view(np.uint32)
            for i in range(words.shape[0]):
                w = u32(words[i])
                low = u32(u32(w & u32(0x7F)) | u32(u32(w << u32(1)) & u32(0x7F00)))
                high = u32(
                    u32(u32(w << u32(2)) & u32(0x7F0000)) | u32(u32(w << u32(3)) & u32(0x7F000000))
                )
                fours[i] = u32(low | high)

    else:

        def to_bytes(stream: Any, codes: Any) -> None:
            words = stream.view(np.uint32)
            for i in range(words.shape[0]):
                for k in range(each):
                    codes[each * i + k] = u32(u32(words[i] >> u32(bits * k)) & mask)

    return to_bytes


@jit
def scale_scattered(
    codes: Any, index: Any, zeros: Any, scales: Any, narrow: Any, half: Any, words: Any, out: Any
) -> None:
    """A row whose column i is of group `index[i]`, neighbours rarely of the same.

    With scales that were stored in 16 bits (`narrow`) and zero points of 0 to 255 both are gathered
    at once, as in `_pairs`; `words` is room for two uint32 a column and one a group.
    """
    inputs, groups = index.shape[0], scales.shape[0]
    if narrow:
        both = words[inputs:]
        for g in range(groups):
            both[g] = u32(as_u32(scales[g]) | u32(np.int32(zeros[g])))
        for i in range(inputs):
            words[i] = both[index[i]]
        scale_pairs(codes[:inputs], words, half, out)
    else:
        each_zero = words[:inputs].view(np.float32)
        each_scale = words[inputs : 2 * inputs].view(np.float32)
        for i in range(inputs):
            each_zero[i] = zeros[index[i]]
            each_scale[i] = scales[index[i]]
        scale_each(codes[:inputs], each_zero, each_scale, half, out)
