"""Before and after `_transpose`: blocks out of lines, and 16-bit numbers out of pairs.

`_transpose` turns words of 32 bits, so 16-bit numbers are turned in pairs, and the pairs are put
apart when they are stored. Nothing here is bounds-checked; with `NUMBA_DISABLE_JIT=1` numpy does
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels._sizes import SPLIT_WORDS
from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import Lanes, is_contiguous, line_of, pointer, prefetch, shuffle
from anamnesis.kernels.types import Array, Bytes

if DISABLED:

    def load16_of(lines: Bytes, line: int, at: int) -> Any:
        return lines[line, at : at + 16]

    def prefetch_of(lines: Bytes, line: int, at: int) -> None:
        """Nothing to do."""

    def prefetch_out(out: Array, at: int) -> None:
        """Nothing to do."""

    def split_pairs(words: Array, row: int, out: Array, low: int, high: int) -> None:
        halves = words[row, :SPLIT_WORDS].view(np.uint16)
        out[low : low + SPLIT_WORDS] = halves[0::2]
        out[high : high + SPLIT_WORDS] = halves[1::2]

else:

    def _lines(array: Type, dtype: Type) -> bool:
        return isinstance(array, types.Array) and array.ndim == 2 and array.dtype == dtype

    @intrinsic
    def load16_of(typingctx: Typing, lines: Type, line: Type, at: Type) -> Any:
        """Bytes `[at, at + 16)` of a line; `lines` is uint8, its last axis contiguous."""
        if not _lines(lines, types.uint8):
            return None
        result = Lanes(types.uint8, 16)

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            start = line_of(context, builder, lines, args[0], args[1])
            where = builder.bitcast(builder.gep(start, [args[2]]), result.llvm.as_pointer())
            return builder.load(where, align=1)

        return result(lines, types.intp, types.intp), build

    @intrinsic
    def prefetch_of(typingctx: Typing, lines: Type, line: Type, at: Type) -> Any:
        """Bring byte `at` of a line near, to be read; any line will do, even past the end."""
        if not _lines(lines, types.uint8):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            start = line_of(context, builder, lines, args[0], args[1])
            prefetch(builder, builder.gep(start, [args[2]]), write=False, near=3)
            return context.get_dummy_value()

        return types.void(lines, types.intp, types.intp), build

    @intrinsic
    def prefetch_out(typingctx: Typing, out: Type, at: Type) -> Any:
        """Bring element `at` near, to be written; any will do, even past the end."""
        if not is_contiguous(out, types.uint16, types.float32):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            where = pointer(context, builder, out, args[0], args[1], ir.IntType(8))
            prefetch(builder, where, write=True, near=3)
            return context.get_dummy_value()

        return types.void(out, types.intp), build

    @intrinsic
    def split_pairs(
        typingctx: Typing, words: Type, row: Type, out: Type, low: Type, high: Type
    ) -> Any:
        """The low halves of `words[row, 0:32]` to `out[low:low+32]`, the high ones to `out[high:]`.

        `words` is uint32, its last axis contiguous; `out` is uint16.
        """
        if not is_contiguous(out, types.uint16) or not out.mutable:
            return None
        if not _lines(words, types.uint32):
            return None
        intp = types.intp

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            start = line_of(context, builder, words, args[0], args[1])
            whole = ir.VectorType(ir.IntType(16), 2 * SPLIT_WORDS)
            halves = builder.load(builder.bitcast(start, whole.as_pointer()), align=4)
            for first, at in ((0, args[3]), (1, args[4])):
                # Little-endian: the low half of a word is the even one of its two.
                part = shuffle(builder, halves, halves, range(first, 64, 2))
                to = pointer(context, builder, out, args[2], at, part.type)
                builder.store(part, to, align=1)
            return context.get_dummy_value()

        return types.void(words, intp, out, intp, intp), build
