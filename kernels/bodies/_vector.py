"""Short vectors as values in kernels: what numpy's `uint8`, `int8` and `float32` arrays of 4 to 64
elements would be, held in registers.

LLVM does not vectorise loops that split a byte into two elements 16 apart, so kernels of packed
formats say what they mean: load bytes, mask and shift and join them, multiply, store. The
vectors are LLVM's own, which it splits or widens to what the CPU has; the operators `& | ^ << >> +
- *` take two vectors of one type, or a vector and a number that every lane shares, as numpy does.
With `NUMBA_DISABLE_JIT=1` they *are* numpy arrays.

Loads and stores are not bounds-checked, here or by `NUMBA_BOUNDSCHECK`: `flat_blocks` checks the
sizes once a call. Multi-byte numbers are read in the host's order, which has to be little-endian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Values
from anamnesis.kernels.bodies._jit import DISABLED, as_f32, as_u32, bf16_bits, inline
from anamnesis.kernels.bodies._llvm import (
    Lanes,
    broadcast,
    is_contiguous,
    pointer,
    rounded_up,
    shuffle,
)
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32
from anamnesis.kernels.types import Array, Bytes, Floats


@inline
def clean_nan(value: np.float32) -> Any:
    """A float32 NaN made quiet, its payload cut to the bits that BF16 keeps; others as they are."""
    if value != value:
        return as_f32(u32(as_u32(value) & u32(0xFFFF0000)) | u32(0x00400000))
    return value


@inline
def load_half(data: Bytes, at: int) -> Any:
    """The little-endian binary16 at byte `at` as float32, exactly; NaNs as in `clean_nan`."""
    return clean_nan(f16_bits_to_f32(load_u16(data, at)))


if DISABLED:

    def _loader(count: int) -> Any:
        return lambda data, at: data[at : at + count]

    def load_u16(data: Bytes, at: int) -> Any:
        return u32(int(data[at]) | int(data[at + 1]) << 8)

    def load_bits32(data: Bytes, at: int) -> Any:
        return np.unpackbits(data[at : at + 4], bitorder="little")

    def join(first: Bytes, second: Bytes) -> Any:
        return np.concatenate([first, second])

    def signed(codes: Bytes) -> Any:
        return codes.view(np.int8)

    def to_f32(codes: Array) -> Any:
        return codes.astype(np.float32)

    def lane(vector: Floats, index: int) -> Any:
        return vector[index]

    def repeat16(vector: Floats, index: int) -> Any:
        return np.repeat(vector[index : index + 2], 16)

    def store(out: Array, at: int, values: Floats) -> None:
        bf16 = out.dtype == np.uint16
        out[at : at + len(values)] = [bf16_bits(v) for v in values] if bf16 else values

else:
    _I8, _I16, _I32 = (ir.IntType(width) for width in (8, 16, 32))

    def _loader(count: int) -> Any:
        @intrinsic
        def load(typingctx: Typing, data: Type, at: Type) -> Any:
            if not is_contiguous(data, types.uint8):
                return None
            result = Lanes(types.uint8, count)

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                where = pointer(context, builder, data, args[0], args[1], result.llvm)
                return builder.load(where, align=1)

            return result(data, types.intp), build

        return load

    @intrinsic
    def load_u16(typingctx: Typing, data: Type, at: Type) -> Any:
        """The little-endian 16-bit number at byte `at`, as uint32."""
        if not is_contiguous(data, types.uint8):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            where = pointer(context, builder, data, args[0], args[1], _I16)
            return builder.zext(builder.load(where, align=1), _I32)

        return types.uint32(data, types.intp), build

    @intrinsic
    def load_bits32(typingctx: Typing, data: Type, at: Type) -> Any:
        """The 32 bits at byte `at`, lowest first, as 32 bytes of 0 or 1."""
        if not is_contiguous(data, types.uint8):
            return None
        result = Lanes(types.uint8, 32)

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            where = pointer(context, builder, data, args[0], args[1], _I32)
            # Little-endian: bit 0 is lane 0.
            bits = builder.bitcast(builder.load(where, align=1), ir.VectorType(ir.IntType(1), 32))
            return builder.zext(bits, result.llvm)

        return result(data, types.intp), build

    @intrinsic
    def join(typingctx: Typing, first: Type, second: Type) -> Any:
        """The lanes of one vector, then those of another of the same type."""
        if not isinstance(first, Lanes) or first != second:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return shuffle(builder, args[0], args[1], range(2 * first.count))

        return Lanes(first.dtype, 2 * first.count)(first, second), build

    @intrinsic
    def signed(typingctx: Typing, codes: Type) -> Any:
        """Bytes seen as int8."""
        if not isinstance(codes, Lanes) or codes.dtype != types.uint8:
            return None
        return Lanes(types.int8, codes.count)(codes), lambda context, builder, sig, args: args[0]

    @intrinsic
    def to_f32(typingctx: Typing, codes: Type) -> Any:
        """Small integers as float32."""
        if not isinstance(codes, Lanes) or not isinstance(codes.dtype, types.Integer):
            return None
        result = Lanes(types.float32, codes.count)

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            extend = builder.sext if codes.dtype.signed else builder.zext
            return builder.sitofp(extend(args[0], ir.VectorType(_I32, codes.count)), result.llvm)

        return result(codes), build

    @intrinsic
    def lane(typingctx: Typing, vector: Type, index: Type) -> Any:
        """One lane, as a scalar."""
        if not isinstance(vector, Lanes):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return builder.extract_element(args[0], builder.trunc(args[1], _I32))

        return vector.dtype(vector, types.intp), build

    @intrinsic
    def repeat16(typingctx: Typing, vector: Type, index: Type) -> Any:
        """Lane `index` 16 times, then lane `index + 1` 16 times."""
        if not isinstance(vector, Lanes):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            low = builder.trunc(args[1], _I32)
            high = builder.add(low, ir.Constant(_I32, 1))
            first, second = (
                broadcast(builder, builder.extract_element(args[0], at), 16) for at in (low, high)
            )
            return shuffle(builder, first, second, range(32))

        return Lanes(vector.dtype, 32)(vector, types.intp), build

    @intrinsic
    def store(typingctx: Typing, out: Type, at: Type, values: Type) -> Any:
        """Store float32 lanes from element `at` on: as they are, or rounded to BF16 for uint16.

        To nearest, ties to even. A NaN has to be one that rounding leaves a NaN: arithmetic makes
        such, and `clean_nan` scales keep them so; checking each lane here costs 10 to 18 %.
        """
        if not is_contiguous(out, types.uint16, types.float32) or not out.mutable:
            return None
        if not isinstance(values, Lanes) or values.dtype != types.float32:
            return None
        count = values.count

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            result = args[2]
            if out.dtype == types.uint16:
                wide = ir.VectorType(_I32, count)
                bits = builder.bitcast(result, wide)
                # BF16 is bits 16-31: every other half, one permutation for two registers where the
                # CPU has it.
                rounded = rounded_up(builder, bits, 16)
                halves = builder.bitcast(rounded, ir.VectorType(_I16, 2 * count))
                result = shuffle(builder, halves, halves, range(1, 2 * count, 2))
            where = pointer(context, builder, out, args[0], args[1], result.type)
            builder.store(result, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, values), build


load4, load8, load16, load32 = (_loader(count) for count in (4, 8, 16, 32))
