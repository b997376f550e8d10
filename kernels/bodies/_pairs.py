"""A zero point and a scale for every code, joined in one word of 32 bits.

Where neighbours rarely share a group, gathering both for each input is most of the work. A scale
that was stored in 16 bits leaves the low eight of its float32 to the zero point, so that one word
is gathered:

    value = float32(code - (word & 255)) * float32 of the bits word & ~255, rounded once to BF16

Nothing here is bounds-checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Values
from anamnesis.kernels.bodies._jit import DISABLED, as_f32, as_u32, inline, jit, put
from anamnesis.kernels.bodies._llvm import Lanes, is_contiguous, pointer, same
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.bodies._vector import load32, store
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats, Integer

_STEP = 32


if DISABLED:

    def scaled_by(codes: Bytes, words: Array, at: int) -> Any:
        some = words[at : at + _STEP]
        scales = (some & np.uint32(0xFFFFFF00)).view(np.float32)
        return (codes.astype(np.int32) - (some & 255).astype(np.int32)).astype(np.float32) * scales

else:
    _CODES = Lanes(types.uint8, _STEP)
    _REALS = Lanes(types.float32, _STEP)

    @intrinsic
    def scaled_by(typingctx: Typing, codes: Type, words: Type, at: Type) -> Any:
        """The values of 32 codes, as float32, with the words from `at` on."""
        if codes != _CODES or not is_contiguous(words, types.uint32):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            wide = ir.VectorType(ir.IntType(32), _STEP)
            where = pointer(context, builder, words, args[1], args[2], wide)
            pairs = builder.load(where, align=4)
            # Bits 0-7: the zero point; bits 8-31: those of the scale's float32.
            zeros = builder.and_(pairs, same(wide, 0xFF))
            scales = builder.and_(pairs, same(wide, 0xFFFFFF00))
            steps = builder.sub(builder.zext(args[0], wide), zeros)
            reals = builder.sitofp(steps, _REALS.llvm)
            return builder.fmul(reals, builder.bitcast(scales, _REALS.llvm))

        return _REALS(codes, words, types.intp), build


@jit
def pair(zeros: Floats, scales: Floats, words: Array) -> None:
    """One word for a zero point and its scale, whose low eight bits are 0 if it was F16 or BF16."""
    for group in range(zeros.shape[0]):
        for row in range(zeros.shape[1]):
            # BF16 leaves 16 bits of a float32 to 0, binary16 leaves 13.
            words[group, row] = u32(as_u32(scales[group, row]) | u32(zeros[group, row]))


@inline
def _scaled(code: Integer, word: Integer) -> Any:
    zero = np.float32(np.int32(u32(word & u32(0xFF))))
    return (np.float32(code) - zero) * as_f32(u32(word & u32(0xFFFFFF00)))


@jit
def scale_pairs(codes: Bytes, words: Array, kind: int, out: Array) -> None:
    """One row, with a zero point and a scale for every code, as `pair` joined them.

    NaN scales have to be `clean_nan`'s. `kind` (`_narrow.KINDS`) is what
    values are rounded to first.
    """
    if kind:
        for i in range(codes.shape[0]):
            put(out, i, rounded(_scaled(codes[i], words[i]), kind))
    else:
        whole = codes.shape[0] - codes.shape[0] % _STEP
        for i in range(0, whole, _STEP):
            store(out, i, scaled_by(load32(codes, i), words, i))
        for i in range(whole, codes.shape[0]):
            put(out, i, _scaled(codes[i], words[i]))


@jit
def scale_each(codes: Array, zeros: Array, scales: Array, kind: int, out: Array) -> None:
    """One row, with a scale and a zero for every code."""
    if kind:
        for i in range(codes.shape[0]):
            put(out, i, rounded((np.float32(codes[i]) - zeros[i]) * scales[i], kind))
    else:
        for i in range(codes.shape[0]):
            put(out, i, (np.float32(codes[i]) - zeros[i]) * scales[i])


@jit
def scale_scattered(
    codes: Array,
    index: Array,
    zeros: Array,
    scales: Array,
    how: tuple[bool, int],
    words: Array,
    out: Array,
) -> None:
    """A row whose column i is of group `index[i]`, neighbours rarely of the same.

    `how` is `narrow` and `kind`: with scales that were stored in 16 bits and zero points of 0 to
    255 (`narrow`) both are gathered at once; `words` is room for two uint32 a column and one a
    group.
    """
    narrow, kind = how
    inputs, groups = index.shape[0], scales.shape[0]
    if narrow:
        # One gathered word an input in place of two.
        both = words[inputs:]
        for g in range(groups):
            both[g] = u32(as_u32(scales[g]) | u32(np.int32(zeros[g])))
        for i in range(inputs):
            words[i] = both[index[i]]
        scale_pairs(codes[:inputs], words, kind, out)
    else:
        each_zero = words[:inputs].view(np.float32)
        each_scale = words[inputs : 2 * inputs].view(np.float32)
        for i in range(inputs):
            each_zero[i] = zeros[index[i]]
            each_scale[i] = scales[index[i]]
        scale_each(codes[:inputs], each_zero, each_scale, kind, out)
