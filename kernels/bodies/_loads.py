"""Loads that `_vector` has not: numbers of 16 and 32 bits as float32, and fields of words as codes.

Vectors are those of `_vector`, sixteen lanes each, and so are the rules: nothing is bounds-checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import Lanes, broadcast, is_contiguous, pointer, same
from anamnesis.kernels.bodies._vector import clean_nan
from anamnesis.kernels.bodies.bits import f16_bits_to_f32
from anamnesis.kernels.types import Array, Halves, Words

LANES = 16


if DISABLED:

    def load_fields(words: Words, at: int, shift: int) -> Any:
        return (words[at : at + LANES] >> np.uint32(shift) & 7).astype(np.uint8)

    def load_plain(raw: Array, at: int) -> Any:
        some = raw[at : at + LANES].astype(np.uint32)
        numbers = (some << 8 * (4 - raw.itemsize)).view(np.float32)
        return np.array([clean_nan(number) for number in numbers], np.float32)

    def load_half(raw: Halves, at: int) -> Any:
        numbers = [clean_nan(f16_bits_to_f32(half)) for half in raw[at : at + LANES]]
        return np.array(numbers, np.float32)

else:
    _I32 = ir.IntType(32)
    _BYTES = Lanes(types.uint8, LANES)
    _NUMBERS = Lanes(types.float32, LANES)

    def every(number: int) -> Any:
        return same(ir.VectorType(_I32, LANES), number)

    def _wide(context: Context, builder: Builder, kind: Type, args: Values, bits: int) -> Any:
        """Sixteen integers of `bits` bits from an array, as 32 bits."""
        element = ir.VectorType(ir.IntType(bits), LANES)
        where = pointer(context, builder, kind, args[0], args[1], element)
        loaded = builder.load(where, align=1)
        return loaded if bits == 32 else builder.zext(loaded, ir.VectorType(_I32, LANES))

    @intrinsic
    def load_fields(typingctx: Typing, words: Type, at: Type, shift: Type) -> Any:
        """Three bits of each of sixteen uint32 from `at` on, `shift` up, as bytes."""
        if not is_contiguous(words, types.uint32):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            down = broadcast(builder, builder.trunc(args[2], _I32), LANES)
            # Bits `shift` to `shift + 2` of each word.
            fields = builder.lshr(_wide(context, builder, words, args, 32), down)
            return builder.trunc(builder.and_(fields, every(7)), _BYTES.llvm)

        return _BYTES(words, types.intp, types.intp), build

    def _from_f16(builder: Builder, half: Value) -> Any:
        """As `f16_bits_to_f32`."""
        magnitude = builder.and_(half, every(0x7FFF))
        sign = builder.shl(builder.and_(half, every(0x8000)), every(16))
        # Bits 0-9 the mantissa, 10-14 the exponent, to bits 13-22 and 23-27.
        shifted = builder.shl(magnitude, every(13))
        large = builder.icmp_unsigned(">=", magnitude, every(0x7C00))
        # 112 more in the exponent, twice of infinities and NaNs.
        bias = builder.select(large, every(0x70000000), every(0x38000000))
        count = builder.sitofp(magnitude, _NUMBERS.llvm)
        step = ir.Constant(_NUMBERS.llvm, [2.0**-24] * LANES)
        small = builder.bitcast(builder.fmul(count, step), half.type)
        subnormal = builder.icmp_unsigned("<", magnitude, every(0x400))
        return builder.or_(builder.select(subnormal, small, builder.add(shifted, bias)), sign)

    def _loader(widen: Callable[..., Any]) -> Any:
        @intrinsic
        def load(typingctx: Typing, raw: Type, at: Type) -> Any:
            """Sixteen numbers from `at` on, from their bits, as float32; NaNs as in `clean_nan`."""
            if not is_contiguous(raw, types.uint16, types.uint32):
                return None
            bits = raw.dtype.bitwidth

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                number = _wide(context, builder, raw, args, bits)
                if bits == 16:
                    number = widen(builder, number)
                quiet = builder.or_(builder.and_(number, every(0xFFFF0000)), every(0x400000))
                magnitude = builder.and_(number, every(0x7FFFFFFF))
                nan = builder.icmp_unsigned(">", magnitude, every(0x7F800000))
                return builder.bitcast(builder.select(nan, quiet, number), _NUMBERS.llvm)

            return _NUMBERS(raw, types.intp), build

        return load

    # Of uint32, both read float32; of uint16, BF16 and binary16.
    load_plain = _loader(lambda builder, number: builder.shl(number, every(16)))
    load_half = _loader(_from_f16)
