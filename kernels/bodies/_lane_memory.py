"""Sixteen numbers as they lie in memory: loaded as lanes, from float32, int32 or BF16, and stored.

Numbers in BF16 are float32 as soon as they are loaded, so that a body is the same for both. See
`_lanes`, whose vectors these are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Values
from anamnesis.kernels.bodies._jit import DISABLED, inline
from anamnesis.kernels.bodies._llvm import Lanes, pointer, prefetch, same, shuffle
from anamnesis.kernels.types import Array, Bytes, Floats, Halves, Ints

COUNT = 16
# Numbers before they are used, a page of BF16: hardware reads ahead within one page only.
READ_AHEAD = 2048

if DISABLED:

    def lanes(array: Array, at: int) -> Any:
        found = array.reshape(-1)[at : at + COUNT]
        return from_bf16(found) if array.dtype == np.uint16 else found.copy()

    def from_bf16(bits: Halves) -> Any:
        return (bits.astype(np.uint32) << 16).view(np.float32)

    def is_bf16(array: Array) -> bool:
        return bool(array.dtype == np.uint16)

    def words(array: Array, at: int) -> Any:
        return array.reshape(-1)[at : at + 4 * COUNT // array.itemsize].view(np.int32).copy()

    def number(array: Array, at: int) -> Any:
        return from_bf16(array[at : at + 1])[0] if array.dtype == np.uint16 else array[at]

    def put_lanes(array: Array, at: int, numbers: Array) -> None:
        array.reshape(-1)[at : at + COUNT] = numbers

    def bring(array: Array, at: int) -> None:
        """Nothing to do."""

    bring_closer = bring

    def wide_bytes(data: Bytes, at: int) -> Any:
        return data[at : at + COUNT].astype(np.int32)

    def pairs(data: Bytes, at: int) -> Any:
        found = data[at : at + COUNT // 2].astype(np.int32)
        return np.stack((found & 15, found >> 4), 1).reshape(-1)

    def pairs_back(data: Bytes, at: int) -> Any:
        return pairs(data, at).reshape(-1, 2)[:, ::-1].reshape(-1)

    def put_bytes(out: Bytes, at: int, numbers: Ints) -> None:
        out.reshape(-1)[at : at + COUNT] = numbers.astype(np.uint8)

    def put_more_bytes(out: Bytes, at: int, first: Ints, second: Ints) -> None:
        put_bytes(out, at, first)
        put_bytes(out, at + COUNT, second)

    def put_pairs(out: Bytes, at: int, codes: Ints) -> None:
        out[at : at + COUNT // 2] = (codes[::2] | codes[1::2] << 4).astype(np.uint8)

    def put_pairs_back(out: Bytes, at: int, codes: Ints) -> None:
        out[at : at + COUNT // 2] = (codes[::2] << 4 | codes[1::2]).astype(np.uint8)

    def put_halves(out: Bytes, at: int, codes: Ints) -> None:
        out[at : at + COUNT // 2] = (codes[:8] | codes[8:] << 4).astype(np.uint8)

else:
    _I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
    REALS, WHOLES = Lanes(types.float32, COUNT), Lanes(types.int32, COUNT)

    def vector_of(array: Type) -> Any:
        """The vector that lies in an array of lanes; None for others."""
        if not isinstance(array, types.Array) or array.layout != "C":
            return None
        return {types.float32: REALS, types.int32: WHOLES}.get(array.dtype)

    def _is_bf16(array: Type) -> bool:
        return isinstance(array, types.Array) and array.dtype == types.uint16

    def load(context: Context, builder: Builder, array: Type, args: Values, kind: Type) -> Any:
        """Load `kind`, lanes or float32, of an array and from an element on; BF16 as float32."""
        values, at = args
        if not _is_bf16(array):
            result = kind.llvm if isinstance(kind, Lanes) else ir.FloatType()
            return builder.load(pointer(context, builder, array, values, at, result), align=4)
        if isinstance(kind, Lanes):
            half, bits, result = ir.VectorType(_I16, COUNT), WHOLES.llvm, kind.llvm
            up = same(bits, 16)
        else:
            half, bits, result = _I16, _I32, ir.FloatType()
            up = ir.Constant(bits, 16)
        number = builder.load(pointer(context, builder, array, values, at, half), align=2)
        # BF16 is bits 16-31 of a float32.
        return builder.bitcast(builder.shl(builder.zext(number, bits), up), result)

    @intrinsic
    def lanes(typingctx: Typing, array: Type, at: Type) -> Any:
        """Sixteen numbers of a contiguous array from element `at` on, of BF16's bits as float32."""
        result = REALS if _is_bf16(array) and array.layout == "C" else vector_of(array)
        if result is None:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return load(context, builder, array, args, result)

        return result(array, types.intp), build

    @intrinsic
    def is_bf16(typingctx: Typing, array: Type) -> Any:
        """Whether an array has BF16's bits: a constant, so that what is for others is left out."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return ir.Constant(ir.IntType(1), int(_is_bf16(array)))

        return types.boolean(array), build

    @intrinsic
    def words(typingctx: Typing, array: Type, at: Type) -> Any:
        """What 64 bytes from element `at` on are as int32 lanes: of BF16 two in each."""
        if not isinstance(array, types.Array) or array.layout != "C":
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            where = pointer(context, builder, array, args[0], args[1], WHOLES.llvm)
            return builder.load(where, align=2)

        return WHOLES(array, types.intp), build

    def _bring(near: int, doc: str) -> Any:
        @intrinsic
        def fetch(typingctx: Typing, array: Type, at: Type) -> Any:
            if not isinstance(array, types.Array) or array.layout != "C":
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                where = pointer(context, builder, array, args[0], args[1], _I8)
                prefetch(builder, where, write=False, near=near)
                return context.get_dummy_value()

            return types.void(array, types.intp), build

        fetch.__doc__ = doc
        return fetch

    bring = _bring(3, "Bring element `at` near, to be read; any will do, even past the end.")
    bring_closer = _bring(2, "The same, no nearer than the second cache.")

    @intrinsic
    def number(typingctx: Typing, array: Type, at: Type) -> Any:
        """One number as float32, of float32 or of BF16's bits."""
        if not _is_bf16(array) and array.dtype != types.float32:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return load(context, builder, array, args, types.float32)

        return types.float32(array, types.intp), build

    @intrinsic
    def put_lanes(typingctx: Typing, array: Type, at: Type, numbers: Type) -> Any:
        """Store sixteen numbers from element `at` on."""
        if vector_of(array) != numbers or not array.mutable:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            where = pointer(context, builder, array, args[0], args[1], numbers.llvm)
            builder.store(args[2], where, align=4)
            return context.get_dummy_value()

        return types.void(array, types.intp, numbers), build

    @intrinsic
    def wide_bytes(typingctx: Typing, data: Type, at: Type) -> Any:
        """Sixteen bytes from byte `at` on, as int32 lanes from 0 to 255."""
        if not isinstance(data, types.Array) or data.layout != "C" or data.dtype != types.uint8:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            kind = ir.VectorType(_I8, COUNT)
            found = builder.load(pointer(context, builder, data, args[0], args[1], kind), align=1)
            return builder.zext(found, WHOLES.llvm)

        return WHOLES(data, types.intp), build

    @intrinsic
    def put_bytes(typingctx: Typing, out: Type, at: Type, numbers: Type) -> Any:
        """Store the low eight bits of each of sixteen int32 from byte `at` on."""
        if not isinstance(out, types.Array) or out.dtype != types.uint8 or numbers != WHOLES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            low = builder.trunc(args[2], ir.VectorType(_I8, COUNT))
            where = pointer(context, builder, out, args[0], args[1], low.type)
            builder.store(low, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, numbers), build

    @intrinsic
    def put_more_bytes(typingctx: Typing, out: Type, at: Type, first: Type, second: Type) -> Any:
        """Store the low eight bits of each of sixteen int32, and of sixteen more behind them."""
        if not isinstance(out, types.Array) or out.dtype != types.uint8:
            return None
        if not first == second == WHOLES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            kind = ir.VectorType(_I8, 4 * COUNT)
            low, high = (builder.bitcast(numbers, kind) for numbers in args[2:])
            data = shuffle(builder, low, high, range(0, 8 * COUNT, 4))
            where = pointer(context, builder, out, args[0], args[1], data.type)
            builder.store(data, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, first, second), build

    def _pairs(first: int, second: int, doc: str) -> Any:
        @intrinsic
        def take(typingctx: Typing, data: Type, at: Type) -> Any:
            if not isinstance(data, types.Array) or data.layout != "C" or data.dtype != types.uint8:
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                kind, wide = ir.VectorType(_I8, COUNT // 2), ir.VectorType(_I64, COUNT // 2)
                where = pointer(context, builder, data, args[0], args[1], kind)
                both = builder.zext(builder.load(where, align=1), wide)
                low = builder.lshr(both, same(wide, first))
                high = builder.shl(both, same(wide, 32 - second))
                codes = builder.and_(builder.or_(low, high), same(wide, 15 << 32 | 15))
                return builder.bitcast(codes, WHOLES.llvm)

            return WHOLES(data, types.intp), build

        take.__doc__ = doc
        return take

    # A pair of int32 is a number of 64 bits, whose upper half is the second of both.
    pairs = _pairs(0, 4, "The codes of eight bytes, int32 lanes: two each, the low half first.")
    pairs_back = _pairs(4, 0, "The same with the high half first.")

    def _put_pairs(up: int, down: int, doc: str) -> Any:
        @intrinsic
        def put(typingctx: Typing, out: Type, at: Type, codes: Type) -> Any:
            if not isinstance(out, types.Array) or out.dtype != types.uint8 or codes != WHOLES:
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                wide = ir.VectorType(_I64, COUNT // 2)
                both = builder.bitcast(args[2], wide)
                left = builder.shl(both, same(wide, up))
                right = builder.lshr(both, same(wide, down))
                low = builder.trunc(builder.or_(left, right), ir.VectorType(_I8, COUNT // 2))
                where = pointer(context, builder, out, args[0], args[1], low.type)
                builder.store(low, where, align=1)
                return context.get_dummy_value()

            return types.void(out, types.intp, codes), build

        put.__doc__ = doc
        return put

    put_pairs = _put_pairs(0, 28, "Store eight bytes of two codes each, the first in the low half.")
    put_pairs_back = _put_pairs(4, 32, "The same with the first one in the high half.")

    @intrinsic
    def put_halves(typingctx: Typing, out: Type, at: Type, codes: Type) -> Any:
        """Store eight bytes of two codes each: the first eight in the low halves."""
        if not isinstance(out, types.Array) or out.dtype != types.uint8 or codes != WHOLES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            low = shuffle(builder, args[2], args[2], range(COUNT // 2))
            high = shuffle(builder, args[2], args[2], range(COUNT // 2, COUNT))
            both = builder.or_(low, builder.shl(high, same(high.type, 4)))
            data = builder.trunc(both, ir.VectorType(_I8, COUNT // 2))
            where = pointer(context, builder, out, args[0], args[1], data.type)
            builder.store(data, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, codes), build


@inline
def some(values: Array, at: int, end: int, room: Floats) -> Any:
    """The numbers from `at` to `end` of a flat array, fewer than sixteen, and zeros; by `room`."""
    for i in range(COUNT):
        room[i] = number(values, at + i) if at + i < end else np.float32(0)
    return lanes(room, 0)


@inline
def put_some(out: Bytes, at: int, end: int, numbers: Ints, room: Ints) -> None:
    """Store the low bytes of int32 lanes from `at` to `end`, fewer than sixteen; by `room`."""
    put_lanes(room, 0, numbers)
    for i in range(end - at):
        out[at + i] = np.uint8(room[i] & 0xFF)
