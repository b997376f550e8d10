"""Thirty-two BF16 numbers side by side as they are stored, int16 lanes, for codes by their bits.

Magnitudes are in the order of their bits, and what is to a power of two is a difference of them, so
that no number has to become a float32, of which half as many are in a vector. Operators are those
of `_llvm`, and the right side of each may be one integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Kind, Signature, Type, Typing, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import (
    Lanes,
    broadcast,
    call,
    is_contiguous,
    pointer,
    same,
    shuffle,
)
from anamnesis.kernels.types import Array, Bytes

HALVES = 32

if DISABLED:

    def halves(array: Array, at: int) -> Any:
        return array[at : at + HALVES].view(np.int16).copy()

    def lower(first: Array, second: Array | int) -> Any:
        return np.minimum(first, np.int16(second))

    def upper(first: Array, second: Array | int) -> Any:
        return np.maximum(first, np.int16(second))

    def above(first: Array, second: Array | int) -> Any:
        return np.maximum(first - np.int16(second), np.int16(0))

    def put_nibbles(out: Bytes, at: int, codes: Array) -> None:
        out[at : at + HALVES // 2] = (codes[:16] | codes[16:] << 4).astype(np.uint8)

else:
    _I8, _I16 = ir.IntType(8), ir.IntType(16)
    _KIND = Lanes(types.int16, HALVES)

    @intrinsic
    def halves(typingctx: Typing, array: Type, at: Type) -> Any:
        """The bits of 32 BF16 numbers from element `at` of a contiguous array on."""
        if not is_contiguous(array, types.uint16):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            where = pointer(context, builder, array, args[0], args[1], _KIND.llvm)
            return builder.load(where, align=2)

        return _KIND(array, types.intp), build

    def _of_two(name: str, doc: str) -> Any:
        @intrinsic
        def function(typingctx: Typing, first: Type, second: Type) -> Any:
            whole = isinstance(second, types.Integer | types.IntegerLiteral)
            if first != _KIND or not (whole or second == _KIND):
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                right = args[1]
                if whole:
                    right = broadcast(builder, builder.trunc(right, _I16), HALVES)
                return call(builder, f"llvm.{name}.v{HALVES}i16", _KIND.llvm, args[0], right)

            return _KIND(first, types.intp if whole else second), build

        function.__doc__ = doc
        return function

    lower = _of_two("smin", "The lesser of two, lane by lane.")
    upper = _of_two("smax", "The greater of two, lane by lane.")
    above = _of_two("usub.sat", "How much the first is above the second, 0 where it is not.")

    def _part(builder: Builder, codes: Kind, first: int) -> Any:
        return shuffle(builder, codes, codes, range(first, first + HALVES // 2))

    @intrinsic
    def put_nibbles(typingctx: Typing, out: Type, at: Type, codes: Type) -> Any:
        """Store sixteen bytes of two codes each: the first sixteen in the low halves."""
        if not is_contiguous(out, types.uint8) or codes != _KIND:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            low, high = (_part(builder, args[2], first) for first in (0, HALVES // 2))
            both = builder.or_(low, builder.shl(high, same(high.type, 4)))
            data = builder.trunc(both, ir.VectorType(_I8, HALVES // 2))
            where = pointer(context, builder, out, args[0], args[1], data.type)
            builder.store(data, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, codes), build
